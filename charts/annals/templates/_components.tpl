{{/*
The component files of ../../components for Kubernetes, as a YAML list of resources. Only this is changed:

- namespace and labels are added
- secret stores become secretstores.kubernetes
- secretKeyRef names the Kubernetes secret, and the key in it, that `credentials` chooses
- pub/sub components say who may publish and subscribe to which topics (publishingScopes, subscriptionScopes,
  allowedTopics), and trust the certificate authority of a bundled Kafka
- metadata is replaced as the value `components` says
*/}}
{{- define "annals.resources" -}}
{{- if not (.Files.Glob (printf "components/brokers/%s/*.yaml" .Values.broker)) }}
  {{- fail (printf "broker: there are no components for %q" .Values.broker) }}
{{- end }}
{{- if not (.Files.Glob (printf "components/stores/%s/*.yaml" .Values.store)) }}
  {{- fail (printf "store: there are no components for %q" .Values.store) }}
{{- end }}
{{- $documents := list }}
{{- range $pattern := list "components/shared/*.yaml" (printf "components/brokers/%s/*.yaml" .Values.broker) (printf "components/stores/%s/*.yaml" .Values.store) }}
  {{- range $path, $_ := $.Files.Glob $pattern }}
    {{- range $text := regexSplit "(?m)^---\\s*$" ($.Files.Get $path) -1 }}
      {{- $document := fromYaml $text }}
      {{- if hasKey $document "Error" }}{{ fail (printf "%s: %s" $path $document.Error) }}{{ end }}
      {{- if $document.kind }}{{ $documents = append $documents $document }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $topics := include "annals.topics" (dict "root" . "documents" $documents) | fromYaml }}
{{- $labels := include "annals.labels" . | fromYaml }}
{{- $components := list }}
{{- range $document := $documents }}
  {{- $_ := set $document.metadata "namespace" $.Release.Namespace }}
  {{- $_ := set $document.metadata "labels" $labels }}
  {{- if eq $document.kind "Component" }}
    {{- include "annals.component" (dict "root" $ "component" $document "topics" $topics) }}
    {{- $components = append $components $document.metadata.name }}
  {{- end }}
{{- end }}
{{- range $name := keys .Values.components | sortAlpha }}
  {{- if not (has $name $components) }}
    {{- fail (printf "components.%s: there is no such component; there are %s" $name (join ", " (sortAlpha $components))) }}
  {{- end }}
{{- end }}
{{- if eq .Values.store "mysql" }}{{ include "annals.twoDatabases" . }}{{ end }}
{{- toYaml $documents }}
{{- end }}

{{/*
Fails if only one of MySQL's two databases is renamed: two suites on one server would share the other one.
*/}}
{{- define "annals.twoDatabases" -}}
{{- $named := list }}{{ $unnamed := list }}
{{- range $name := list "eventstore" "workflowstore" }}
  {{- if hasKey (get $.Values.components $name | default dict) "schemaName" }}{{ $named = append $named $name }}
  {{- else }}{{ $unnamed = append $unnamed $name }}
  {{- end }}
{{- end }}
{{- if and $named $unnamed }}
  {{- fail (printf "components.%s.schemaName: set it too, because that of %s is set; otherwise two suites on one server would share the database %s" (first $unnamed) (first $named) (ternary "annals" "annals_workflows" (eq (first $unnamed) "eventstore"))) }}
{{- end }}
{{- end }}

{{/* Changes one component in place, as annals.resources describes. */}}
{{- define "annals.component" -}}
{{- $root := .root }}
{{- $name := .component.metadata.name }}
{{- $spec := .component.spec }}
{{- if eq $spec.type "secretstores.local.file" }}
  {{- $_ := set $spec "type" "secretstores.kubernetes" }}
  {{- $_ := set $spec "metadata" (list (dict "name" "defaultNamespace" "value" $root.Release.Namespace)) }}
{{- end }}
{{- $given := get $root.Values.components $name | default dict }}
{{- range $item := $spec.metadata }}
  {{- if and $item.secretKeyRef (not (hasKey $given $item.name)) }}
    {{- $_ := set $item "secretKeyRef" (include "annals.credential" (dict "root" $root "name" $item.secretKeyRef.name "component" $name) | fromYaml) }}
  {{- end }}
{{- end }}
{{- $own := dict }}
{{- if hasPrefix "pubsub." $spec.type }}
  {{- $publishes := list }}{{ $subscribes := list }}{{ $all := list }}
  {{- range $app := .component.scopes | sortAlpha }}
    {{- $publish := dig "publish" $name $app list $.topics }}
    {{- $subscribe := dig "subscribe" $name $app list $.topics }}
    {{- $publishes = append $publishes (printf "%s=%s" $app (join "," $publish)) }}
    {{- $subscribes = append $subscribes (printf "%s=%s" $app (join "," $subscribe)) }}
    {{- $all = concat $all $publish $subscribe }}
  {{- end }}
  {{- $_ := set $own "publishingScopes" (dict "value" (join ";" $publishes)) }}
  {{- $_ := set $own "subscriptionScopes" (dict "value" (join ";" $subscribes)) }}
  {{- $_ := set $own "allowedTopics" (dict "value" (join "," ($all | uniq | sortAlpha))) }}
  {{- if and $root.Values.kafka.bundled (eq $root.Values.broker "kafka") }}
    {{- $_ := set $own "caCert" (dict "secretKeyRef" (dict "name" (printf "%s-kafka-cluster-ca-cert" $root.Release.Name) "key" "ca.crt")) }}
  {{- end }}
{{- end }}
{{- $own = merge (deepCopy $given) $own }}
{{- $metadata := list }}
{{- range $item := $spec.metadata }}
  {{- if not (hasKey $own $item.name) }}{{ $metadata = append $metadata $item }}{{ end }}
{{- end }}
{{- range $key := keys $own | sortAlpha }}
  {{- $metadata = append $metadata (merge (dict "name" $key) (get $own $key)) }}
{{- end }}
{{- $_ := set $spec "metadata" $metadata }}
{{- if eq $spec.type "pubsub.mqtt3" }}
  {{- include "annals.oneConnection" (dict "root" $root "component" .component) }}
{{- end }}
{{- end }}

{{/*
Fails if two pods would connect as the same MQTT client: each would end the other's connection, again and
again.
*/}}
{{- define "annals.oneConnection" -}}
{{- $root := .root }}
{{- $name := .component.metadata.name }}
{{- $id := "" }}
{{- range .component.spec.metadata }}{{ if eq .name "consumerID" }}{{ $id = .value }}{{ end }}{{ end }}
{{- if not (contains "{podName}" $id) }}
  {{- range $app := .component.scopes }}
    {{- $service := get $root.Values.services $app }}
    {{- if and $service.enabled (or (gt (int $service.replicas) 1) (ne $root.Values.autoscaling.kind "none")) }}
      {{- fail (printf "broker mqtt: all replicas of %s would be the client %q of %s, which can have only one connection: set services.%s.replicas to 1 and autoscaling.kind to none, or components.%s.consumerID.value to \"{podName}-%s\"; see components/README.md" $app $id $name $app $name $name) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
The topics that each app may publish and subscribe to, in YAML: {publish: {component: {app: [topics]}},
subscribe: …}. The subscriptions give the subscribers, and the dead-letter topics that their sidecars publish
to. The value `services` gives the topics that the apps publish to.
*/}}
{{- define "annals.topics" -}}
{{- $publish := dict }}{{ $subscribe := dict }}
{{- range $document := .documents }}
  {{- if eq $document.kind "Subscription" }}
    {{- $component := $document.spec.pubsubname }}
    {{- range $app := $document.scopes }}
      {{- $apps := get $subscribe $component | default dict }}
      {{- $_ := set $apps $app (append (get $apps $app | default list) $document.spec.topic) }}
      {{- $_ := set $subscribe $component $apps }}
      {{- if $document.spec.deadLetterTopic }}
        {{- $apps := get $publish $component | default dict }}
        {{- $_ := set $apps $app (append (get $apps $app | default list) $document.spec.deadLetterTopic) }}
        {{- $_ := set $publish $component $apps }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $scopes := dict }}
{{- range .documents }}{{ if eq .kind "Component" }}{{ $_ := set $scopes .metadata.name (.scopes | default list) }}{{ end }}{{ end }}
{{- range $app, $service := .root.Values.services }}
  {{- range $topic := $service.publishes }}{{/* a topic's component has the topic's name */}}
    {{- if and $service.enabled (not (has $app (get $scopes $topic | default list))) }}
      {{- fail (printf "services.%s.publishes: %s is not among the scopes of a component %s, so it cannot publish there; add it to them in components/brokers/%s" $app $app $topic $.root.Values.broker) }}
    {{- end }}
    {{- $apps := get $publish $topic | default dict }}
    {{- $_ := set $apps $app (append (get $apps $app | default list) $topic | uniq) }}
    {{- $_ := set $publish $topic $apps }}
  {{- end }}
{{- end }}
{{- toYaml (dict "publish" $publish "subscribe" $subscribe) }}
{{- end }}

{{/*
The Kubernetes secret for a credential that a component file names, as {name, key}. Fails if none is given.
(dict "root" $ "name" credential "component" name)
*/}}
{{- define "annals.credential" -}}
{{- $release := .root.Release.Name }}
{{- $given := get .root.Values.credentials .name }}
{{- if not $given }}{{ fail (printf "credentials: the component %s asks for %q; give it a value or an existingSecret" .component .name) }}{{ end }}
{{- $bundled := include "annals.bundledCredential" . | fromYaml }}
{{- if $given.existingSecret }}
  {{- toYaml (dict "name" $given.existingSecret "key" ($given.key | default .name)) }}
{{- else if and $bundled.name (not $given.value) }}
  {{- toYaml $bundled }}
{{- else if or $given.value $given.optional $bundled.value }}
  {{- toYaml (dict "name" (printf "%s-%s" $release .name) "key" .name) }}
{{- else }}
  {{- fail (printf "credentials.%s: the component %s needs it; give credentials.%s.existingSecret (and key), or .value" .name .component .name) }}
{{- end }}
{{- end }}

{{/* A credential that a bundled server provides: {name, key} of a secret, or {value}. */}}
{{- define "annals.bundledCredential" -}}
{{- $release := .root.Release.Name }}
{{- if and .root.Values.postgresql.bundled (eq .name "postgres") }}
  {{- toYaml (dict "name" (printf "%s-postgres-app" $release) "key" "uri") }}
{{- else if .root.Values.kafka.bundled }}
  {{- /* with the namespace, because KEDA resolves the address from its own */}}
  {{- if eq .name "kafka" }}{{ toYaml (dict "value" (printf "%s-kafka-kafka-bootstrap.%s.svc:9093" $release .root.Release.Namespace)) }}
  {{- else if eq .name "kafka-user" }}{{ toYaml (dict "value" (printf "%s-apps" $release)) }}
  {{- else if eq .name "kafka-password" }}{{ toYaml (dict "name" (printf "%s-apps" $release) "key" "password") }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
The secrets that an app's sidecar may read, as a YAML list: those of its components, and the suite's keys for
that app. (dict "root" $ "app" name "resources" list)
*/}}
{{- define "annals.readableSecrets" -}}
{{- $names := list }}
{{- range $resource := .resources }}
  {{- if and (eq $resource.kind "Component") (or (not $resource.scopes) (has $.app $resource.scopes)) }}
    {{- range $item := $resource.spec.metadata }}
      {{- if $item.secretKeyRef }}{{ $names = append $names $item.secretKeyRef.name }}{{ end }}
    {{- end }}
    {{- $names = concat $names (include "annals.keysOf" $resource.metadata.name | fromYamlArray) }}
  {{- end }}
{{- end }}
{{- toYaml ($names | uniq | sortAlpha) }}
{{- end }}

{{/*
The names of the keys that apps read from a secret store, as a YAML list; the context is the store's name.
*/}}
{{- define "annals.keysOf" -}}
{{- get (dict "signing-keys" "[audit-signing-key]" "shared-keys" "[audit-public-keys, personal-data-keys]") . | default "[]" }}
{{- end }}

{{/* All topics that an app publishes or subscribes to, as a YAML list. */}}
{{- define "annals.kafkaTopics" -}}
{{- $topics := list }}
{{- range $resource := include "annals.resources" . | fromYamlArray }}
  {{- if and (eq $resource.kind "Component") (hasPrefix "pubsub." $resource.spec.type) }}
    {{- range $item := $resource.spec.metadata }}
      {{- if eq $item.name "allowedTopics" }}{{ $topics = concat $topics (splitList "," $item.value) }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- toYaml ($topics | uniq | sortAlpha) }}
{{- end }}
