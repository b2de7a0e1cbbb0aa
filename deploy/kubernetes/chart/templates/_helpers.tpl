{{- define "jpeg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* At most 40 characters: a pool's name and Kubernetes' suffixes follow, and the limit is 63. */}}
{{- define "jpeg.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "jpeg.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "jpeg.selector" -}}
app.kubernetes.io/name: {{ include "jpeg.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jpeg.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "jpeg.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/*
The pools as JSON: a list of {name, fullname, labels, server}, where server is `server` merged with the pool's values.
*/}}
{{- define "jpeg.pools" -}}
{{- $root := . -}}
{{- $pools := list -}}
{{- range $name, $changes := (.Values.pools | default (dict "" dict)) -}}
{{- $server := mergeOverwrite (deepCopy $root.Values.server) (deepCopy ($changes | default dict)) -}}
{{- $fullname := include "jpeg.fullname" $root -}}
{{- if $name }}{{ $fullname = printf "%s-%s" $fullname $name }}{{ end -}}
{{- $labels := include "jpeg.selector" $root | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/component" ($name | default "server") -}}
{{- $pools = append $pools (dict "name" $name "fullname" $fullname "labels" $labels "server" $server) -}}
{{- end -}}
{{- dict "pools" $pools | toJson -}}
{{- end }}

{{- define "jpeg.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end }}

{{- define "jpeg.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* The probe's timeout is shorter than Kubernetes', so that its error is recorded and no process remains. */}}
{{- define "jpeg.probe" -}}
exec: { command: [jpeg-serve, probe, --timeout-s, {{ sub (int .timeoutSeconds) 2 | toString | quote }}] }
periodSeconds: {{ int .periodSeconds }}
timeoutSeconds: {{ int .timeoutSeconds }}
failureThreshold: {{ int .failureThreshold }}
{{- end }}

{{/* Whether the pool scales on metrics from Prometheus. */}}
{{- define "jpeg.fromPrometheus" -}}
{{- if or .inFlightRequests .queueMilliseconds .imagesPerSecond }}true{{ end -}}
{{- end }}

{{- define "jpeg.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies: # the larger of doubling and two more pods
    - { type: Percent, value: 100, periodSeconds: 60 }
    - { type: Pods, value: 2, periodSeconds: 60 }
scaleDown:
  stabilizationWindowSeconds: {{ int .scaleDownSeconds }}
  policies:
    - { type: Pods, value: 1, periodSeconds: 60 }
{{- end }}

{{/*
Contradictions between values, which the schema cannot express. Each message names the values and the remedy.
*/}}
{{- define "jpeg.refuse" -}}
{{- range (include "jpeg.pools" . | fromJson).pools -}}
{{- $where := ternary (printf "pools.%s" .name) "server" (ne .name "") -}}
{{- with .server -}}
{{- if and (eq .models.source "claim") (not .models.claim.name) -}}
{{- fail (printf "%s: models.source is claim: set models.claim.name to a PersistentVolumeClaim" $where) -}}
{{- end -}}
{{- if eq .models.source "objectStore" -}}
{{- $image := .models.objectStore.image -}}
{{- if not (and $image.repository (or $image.tag $image.digest) .models.objectStore.args) -}}
{{- fail (printf "%s: models.source is objectStore: set an image (repository, and tag or digest) and args that copy a repository to /models in models.objectStore" $where) -}}
{{- end -}}
{{- if and $.Values.networkPolicy.enabled (not $.Values.networkPolicy.egress) -}}
{{- fail (printf "%s: models.source is objectStore, and networkPolicy.egress is empty, which blocks the download: allow the store and DNS in networkPolicy.egress" $where) -}}
{{- end -}}
{{- end -}}
{{- if not (or .image.tag .image.digest) -}}
{{- fail (printf "%s: image has neither a tag nor a digest" $where) -}}
{{- end -}}
{{- range list .image .models.objectStore.image -}}
{{- if and (eq .tag "latest") (not .digest) -}}
{{- fail (printf "%s: the tag latest of %s changes over time: use a fixed tag or a digest" $where .repository) -}}
{{- end -}}
{{- end -}}
{{- range concat .extraArgs .tritonArgs -}}
{{- if regexMatch "^--(model-repository|address|drain-s|ready-timeout-s|(http|grpc|metrics)-(port|address)|exit-timeout-secs|grpc-max-connection-age(-grace)?)(=|$)" . -}}
{{- fail (printf "%s: %s is set by the chart: use the chart's value instead (ports are fixed)" $where .) -}}
{{- end -}}
{{- end -}}
{{- if gt (mulf 1.5 .connectionAgeSeconds | addf 5) (float64 .preStopSeconds) -}}
{{- fail (printf "%s: preStopSeconds (%v) must be at least 1.5 * connectionAgeSeconds (%v) + 5: otherwise clients are still connected when the server stops, and their requests fail" $where .preStopSeconds .connectionAgeSeconds) -}}
{{- end -}}
{{- if lt (int .startSeconds) (int .loadSeconds) -}}
{{- fail (printf "%s: startSeconds (%v) is less than loadSeconds (%v): Kubernetes would restart the container during loading" $where .startSeconds .loadSeconds) -}}
{{- end -}}
{{- if and (eq (int .update.maxSurge) 0) (eq (int .update.maxUnavailable) 0) -}}
{{- fail (printf "%s: update.maxSurge and update.maxUnavailable are both 0, which blocks every update" $where) -}}
{{- end -}}
{{- with .autoscaling -}}
{{- if .enabled -}}
{{- if lt (int .max) (int .min) -}}
{{- fail (printf "%s: autoscaling.max (%v) is less than autoscaling.min (%v)" $where .max .min) -}}
{{- end -}}
{{- if not (or (include "jpeg.fromPrometheus" .) .cpuPercent) -}}
{{- fail (printf "%s: autoscaling is enabled without a target: set inFlightRequests, queueMilliseconds, imagesPerSecond or cpuPercent" $where) -}}
{{- end -}}
{{- if and (eq .by "keda") (include "jpeg.fromPrometheus" .) (not .prometheusAddress) -}}
{{- fail (printf "%s: autoscaling.by is keda: set autoscaling.prometheusAddress" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.web.enabled (not .Values.gateway.enabled) -}}
{{- fail "web.enabled: the web application listens on 127.0.0.1 of its pod, and requires no key: set gateway.enabled" -}}
{{- end -}}
{{- range .Values.web.args -}}
{{- if regexMatch "^--(url|metrics-url|address|port|drain-s)(=|$)" . -}}
{{- fail (printf "web.args: %s is set by the chart" .) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.gateway.enabled -}}
{{- range $way, $open := dict "ingress.enabled" .Values.ingress.enabled "route.enabled" .Values.route.enabled (printf "service.type %s" .Values.service.type) (ne .Values.service.type "ClusterIP") -}}
{{- if $open -}}
{{- fail (printf "%s would lead to Triton itself, which has no keys, opens every model, and ends with some requests: set gateway.enabled" $way) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range list .Values.gateway.image -}}
{{- if not (or .tag .digest) }}{{ fail "gateway.image has neither a tag nor a digest" }}{{ end -}}
{{- if and (eq .tag "latest") (not .digest) }}{{ fail "gateway.image: the tag latest changes over time: use a fixed tag or a digest" }}{{ end -}}
{{- end -}}
{{- with .Values.ingress -}}
{{- if and .enabled (not .host) }}{{ fail "ingress.enabled: set ingress.host; without one, the Ingress accepts requests for any host" }}{{ end -}}
{{- if and .enabled .grpc.enabled (not .grpc.host) }}{{ fail "ingress.grpc.enabled: set ingress.grpc.host" }}{{ end -}}
{{- end -}}
{{- with .Values.route -}}
{{- if .enabled -}}
{{- if not .parentRefs }}{{ fail "route.enabled: set route.parentRefs to the Gateway" }}{{ end -}}
{{- if not (and .backendTLS.hostname .backendTLS.caConfigMap) }}{{ fail "route.enabled: set route.backendTLS.hostname to a name in the gateway's certificate, and route.backendTLS.caConfigMap to a ConfigMap with the ca.crt that signed it" }}{{ end -}}
{{- if and .grpcHostnames (not .hostnames) }}{{ fail "route.grpcHostnames: set route.hostnames, too: without them, the HTTPRoute takes all hosts, and the two routes must not share one" }}{{ end -}}
{{- range .grpcHostnames }}{{ if has . $.Values.route.hostnames }}{{ fail (printf "route: %s is in hostnames and in grpcHostnames, but an HTTPRoute and a GRPCRoute must not share a host" .) }}{{ end }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}
