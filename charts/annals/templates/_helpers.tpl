{{/* Names and labels, and the list of apps. */}}

{{- define "annals.labels" -}}
app.kubernetes.io/part-of: annals
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/*
The annotations of a bundled server's resources. If such a resource were deleted, its operator would delete
the server's data. So the resources stay when the release is uninstalled, as the keys do, and a release of the
same name takes them over.
*/}}
{{- define "annals.keep" -}}
{{- if .Values.keys.keep }}
{{- toYaml (dict "helm.sh/resource-policy" "keep") }}
{{- else }}
{{- toYaml dict }}
{{- end }}
{{- end }}

{{/* The labels that select the pods of one app: (dict "root" $ "app" name) */}}
{{- define "annals.selector" -}}
app.kubernetes.io/part-of: annals
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/name: {{ .app }}
{{- end }}

{{/* The name of an app's Kubernetes objects: (dict "root" $ "app" name) */}}
{{- define "annals.name" -}}
{{ printf "%s-%s" .root.Release.Name .app }}
{{- end }}

{{/* All apps that run, name to service: the enabled services, and the smoke test. */}}
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

{{/* "true" if an autoscaler sets an app's replicas, else empty: (dict "root" $ "service" values) */}}
{{- define "annals.scaled" -}}
{{- if and (ne .root.Values.autoscaling.kind "none") .service.port (not .service.edge) }}true{{ end }}
{{- end }}

{{/*
The maximum number of replicas of an app, or empty if there is none. A replica is ready only when it holds a
lane of the event store (annals/store/lease.py), and a rollout runs one more replica. (dict "app" name)
*/}}
{{- define "annals.mostReplicas" -}}
{{ get (dict "command" 47 "saga-orchestrator" 15) .app }}
{{- end }}

{{/*
The replicas of an app: as many as its service says, or as an autoscaler may set at most.
(dict "root" $ "app" name "service" values)
*/}}
{{- define "annals.replicas" -}}
{{- if include "annals.scaled" . }}
  {{- $most := int .root.Values.autoscaling.maxReplicas }}
  {{- with include "annals.mostReplicas" . }}{{ $most = min $most (int .) }}{{ end }}
  {{- $most }}
{{- else }}
  {{- int .service.replicas }}
{{- end }}
{{- end }}

{{- define "annals.image" -}}
{{ printf "%s/%s:%s" .root.Values.image.repository (.service.image | default .app) (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}

{{/* What says where a pod runs, and from where its images are pulled; the context is the root. */}}
{{- define "annals.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.pod.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The address that spans are sent to, or empty. */}}
{{- define "annals.zipkin" -}}
{{- if .Values.tracing.endpoint }}{{ .Values.tracing.endpoint }}
{{- else if .Values.zipkin.bundled }}{{ printf "http://%s-zipkin:9411/api/v2/spans" .Release.Name }}
{{- end }}
{{- end }}

{{/* The name of the secret with a token: (dict "root" $ "app" name "kind" "api" or "app") */}}
{{- define "annals.tokenSecret" -}}
{{ printf "%s-%s-%s-token" .root.Release.Name .app .kind }}
{{- end }}
