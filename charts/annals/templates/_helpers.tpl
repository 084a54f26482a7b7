{{/* Names, labels, and the apps as data. */}}

{{- define "annals.labels" -}}
app.kubernetes.io/part-of: annals
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/*
The annotations of a bundled server's resources. With a resource its operator deletes what is in the server; so it stays,
as the keys do, and a release of the same name takes it over.
*/}}
{{- define "annals.keep" -}}
{{- if .Values.keys.keep }}
{{- toYaml (dict "helm.sh/resource-policy" "keep") }}
{{- else }}
{{- toYaml dict }}
{{- end }}
{{- end }}

{{/* What selects the pods of one app. (dict "root" $ "app" name) */}}
{{- define "annals.selector" -}}
app.kubernetes.io/part-of: annals
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .app }}
{{- end }}

{{/* The object of an app: (dict "root" $ "app" name) */}}
{{- define "annals.name" -}}
{{ printf "%s-%s" .root.Release.Name .app }}
{{- end }}

{{/* Name to service of all apps that run: the services that are enabled, and the smoke test. */}}
{{- define "annals.apps" -}}
{{- $apps := dict }}
{{- range $name, $service := .Values.services }}
  {{- if $service.enabled }}{{ $_ := set $apps $name $service }}{{ end }}
{{- end }}
{{- if .Values.smokeTest.enabled }}
  {{- $_ := set $apps "smoke-test" (dict "enabled" true "image" "cli" "test" true "publishes" list "allow" list) }}
{{- end }}
{{- toYaml $apps }}
{{- end }}

{{/* Whether an app's replicas are an autoscaler's: "true", or nothing. (dict "root" $ "service" values) */}}
{{- define "annals.scaled" -}}
{{- if and (ne .root.Values.autoscaling.kind "none") .service.port (not .service.edge) }}true{{ end }}
{{- end }}

{{/*
How many replicas an app may have, or nothing: one is ready when it has a lane of the event store (annals/store/lease.py),
and a rollout has one more. (dict "app" name)
*/}}
{{- define "annals.mostReplicas" -}}
{{ get (dict "command" 47 "saga-orchestrator" 15) .app }}
{{- end }}

{{- define "annals.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.repository (.service.image | default .app) (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{/* Where spans go, or nothing. */}}
{{- define "annals.zipkin" -}}
{{- if .Values.tracing.endpoint }}{{ .Values.tracing.endpoint }}
{{- else if .Values.zipkin.bundled }}{{ printf "http://%s-zipkin:9411/api/v2/spans" .Release.Name }}
{{- end }}
{{- end }}

{{/* The secret with a token: (dict "root" $ "app" name "kind" "api" or "app") */}}
{{- define "annals.tokenSecret" -}}
{{ printf "%s-%s-%s-token" .root.Release.Name .app .kind }}
{{- end }}
