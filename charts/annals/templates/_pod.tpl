{{/*
The pod template of an app, with the annotations for its sidecar: (dict "root" $ "app" name "service" values)
*/}}
{{- define "annals.pod" -}}
{{- $values := .root.Values }}
{{- $port := int (.service.port | default 0) }}
{{- $metrics := 9464 }}
metadata:
  labels:
    {{- include "annals.selector" . | nindent 4 }}
    {{- with $values.pod.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    dapr.io/enabled: "true"
    dapr.io/app-id: {{ .app }}
    dapr.io/config: {{ include "annals.name" . }}
    dapr.io/enable-native-sidecar: {{ $values.sidecar.native | quote }}
    {{- if $port }}
    dapr.io/app-port: {{ $port | quote }}
    dapr.io/app-protocol: http
    dapr.io/enable-app-health-check: "true"
    dapr.io/app-health-check-path: /healthz
    dapr.io/app-health-probe-interval: "1"
    dapr.io/app-health-probe-timeout: "900"
    {{- if not .service.edge }}
    dapr.io/app-token-secret: {{ include "annals.tokenSecret" (dict "root" .root "app" .app "kind" "app") }}
    {{- end }}
    {{- end }}
    dapr.io/api-token-secret: {{ include "annals.tokenSecret" (dict "root" .root "app" .app "kind" "api") }}
    dapr.io/disable-builtin-k8s-secret-store: "true"
    # Only the sidecar gets the token of the Kubernetes API.
    dapr.io/volume-mounts: kubernetes-api:/var/run/secrets/kubernetes.io/serviceaccount
    dapr.io/enable-metrics: "true"
    dapr.io/metrics-port: "9090"
    dapr.io/log-as-json: "true"
    dapr.io/log-level: {{ $values.sidecar.logLevel }}
    dapr.io/max-body-size: {{ $values.sidecar.maxBodySize | quote }}
    dapr.io/graceful-shutdown-seconds: {{ $values.sidecar.gracefulShutdownSeconds | quote }}
    {{- if not $values.sidecar.native }}
    dapr.io/block-shutdown-duration: {{ $values.sidecar.blockShutdownDuration }}
    {{- end }}
    {{- range $kind := list "request" "limit" }}
    {{- range $of, $amount := get ($values.sidecar.resources | default dict) (printf "%ss" $kind) | default dict }}
    dapr.io/sidecar-{{ $of }}-{{ $kind }}: {{ $amount | quote }}
    {{- end }}
    {{- end }}
    # On a busy node, the sidecar does not always answer within the default of one second.
    dapr.io/sidecar-readiness-probe-timeout-seconds: "5"
    dapr.io/sidecar-seccomp-profile-type: RuntimeDefault
    {{- with $values.pod.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "annals.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.pod.terminationGracePeriodSeconds }}
  {{- if .service.test }}
  restartPolicy: Never
  {{- end }}
  {{- include "annals.placement" .root | trim | nindent 2 }}
  {{- if and $values.pod.spread $port }}
  topologySpreadConstraints:
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - topologyKey: {{ $key }}
      maxSkew: 1
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "annals.selector" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: {{ .app }}
      image: {{ include "annals.image" . }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- with .service.command }}
      command: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .service.args }}
      args: {{- toYaml . | nindent 8 }}
      {{- end }}
      env:
        - name: DAPR_API_TOKEN
          valueFrom: {secretKeyRef: {name: {{ include "annals.tokenSecret" (dict "root" .root "app" .app "kind" "api") }}, key: token}}
        {{- if and $port (not .service.edge) }}
        - name: APP_API_TOKEN
          valueFrom: {secretKeyRef: {name: {{ include "annals.tokenSecret" (dict "root" .root "app" .app "kind" "app") }}, key: token}}
        {{- end }}
        {{- if $port }}
        - name: APP_PORT
          value: {{ $port | quote }}
        {{- if .service.edge }}
        # Everybody can reach the edge's other port, so its metrics have a port of their own.
        - name: ANNALS_METRICS_PORT
          value: {{ $metrics | quote }}
        {{- end }}
        {{- with include "annals.zipkin" .root }}
        - name: ANNALS_ZIPKIN_ENDPOINT
          value: {{ . }}
        {{- end }}
        {{- else }}
        - name: ANNALS_SIDECAR
          value: http://127.0.0.1:3500
        {{- end }}
        {{- range $name, $value := .service.env }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with .service.envFrom }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . }}}
        {{- end }}
      {{- end }}
      {{- if $port }}
      ports:
        - {name: http, containerPort: {{ $port }}}
        {{- if .service.edge }}
        - {name: metrics, containerPort: {{ $metrics }}}
        {{- end }}
      startupProbe:
        httpGet: {{ include "annals.probe" (dict "path" "/healthz") }}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {{ include "annals.probe" (dict "path" "/healthz") }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {{ include "annals.probe" (dict "path" "/readyz") }}
        periodSeconds: 3
        timeoutSeconds: 5
      {{- with int $values.pod.preStopSeconds }}{{/* before 1.33, Kubernetes refuses 0 */}}
      {{- if gt . (int $values.pod.terminationGracePeriodSeconds) }}
        {{- fail (printf "pod.preStopSeconds: %d is more than pod.terminationGracePeriodSeconds, which Kubernetes refuses" .) }}
      {{- end }}
      lifecycle:
        # The pod is removed from its Service first and told to end afterwards, when it receives nothing new.
        preStop:
          sleep: {seconds: {{ . }}}
      {{- end }}
      {{- end }}
      resources: {{- toYaml (.service.resources | default $values.pod.resources) | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    - name: kubernetes-api
      projected:
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 3600}
          - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
          - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{/*
Sends the host `localhost`, which every app accepts: with ANNALS_AUTH=development the console refuses all host
names but its own, which are `localhost` and 127.0.0.1.
*/}}
{{- define "annals.probe" -}}
{path: {{ .path }}, port: http, httpHeaders: [{name: Host, value: localhost}]}
{{- end }}
