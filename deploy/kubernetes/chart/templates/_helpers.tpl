{{- define "jpeg.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* At most 40 characters: a pool's name and Kubernetes' own suffixes come after it, and 63 is the limit. */}}
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
The pools as JSON: a list of {name, fullname, labels, server}, where server is `server` with what the pool changes.
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

{{/* The probe's own limit is shorter than Kubernetes': then its reason is read, and no process is left behind. */}}
{{- define "jpeg.probe" -}}
exec: { command: [jpeg-serve, probe, --timeout-s, {{ sub (int .timeoutSeconds) 2 | toString | quote }}] }
periodSeconds: {{ int .periodSeconds }}
timeoutSeconds: {{ int .timeoutSeconds }}
failureThreshold: {{ int .failureThreshold }}
{{- end }}

{{/* Whether the pool wants metrics that only Prometheus has. */}}
{{- define "jpeg.fromPrometheus" -}}
{{- if or .inFlightRequests .queueMilliseconds .imagesPerSecond }}true{{ end -}}
{{- end }}

{{- define "jpeg.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies: # doubling, or two more: a first step from 2 is not a crawl, and one from 20 not a flood
    - { type: Percent, value: 100, periodSeconds: 60 }
    - { type: Pods, value: 2, periodSeconds: 60 }
scaleDown:
  stabilizationWindowSeconds: {{ int .scaleDownSeconds }}
  policies:
    - { type: Pods, value: 1, periodSeconds: 60 }
{{- end }}

{{/*
What no schema can say: values that contradict each other. Each line names them and what to do.
*/}}
{{- define "jpeg.refuse" -}}
{{- range (include "jpeg.pools" . | fromJson).pools -}}
{{- $where := ternary (printf "pools.%s" .name) "server" (ne .name "") -}}
{{- with .server -}}
{{- if and (eq .models.source "claim") (not .models.claim.name) -}}
{{- fail (printf "%s: models.source is claim: name a PersistentVolumeClaim in models.claim.name" $where) -}}
{{- end -}}
{{- if eq .models.source "objectStore" -}}
{{- $image := .models.objectStore.image -}}
{{- if not (and $image.repository (or $image.tag $image.digest) .models.objectStore.args) -}}
{{- fail (printf "%s: models.source is objectStore: give models.objectStore an image (repository, and tag or digest) and args that copy a repository to /models" $where) -}}
{{- end -}}
{{- if and $.Values.networkPolicy.enabled (not $.Values.networkPolicy.egress) -}}
{{- fail (printf "%s: models.source is objectStore, and networkPolicy.egress is empty: the download could not leave the pod. Allow the store and DNS in networkPolicy.egress" $where) -}}
{{- end -}}
{{- end -}}
{{- if not (or .image.tag .image.digest) -}}
{{- fail (printf "%s: image has neither a tag nor a digest" $where) -}}
{{- end -}}
{{- range list .image .models.objectStore.image -}}
{{- if and (eq .tag "latest") (not .digest) -}}
{{- fail (printf "%s: the tag latest of %s is another image tomorrow: name one that stays, or a digest" $where .repository) -}}
{{- end -}}
{{- end -}}
{{- range concat .extraArgs .tritonArgs -}}
{{- if regexMatch "^--(model-repository|address|drain-s|ready-timeout-s|(http|grpc|metrics)-port|exit-timeout-secs|grpc-max-connection-age(-grace)?)(=|$)" . -}}
{{- fail (printf "%s: %s is set by the chart: use its value instead (ports stay as they are)" $where .) -}}
{{- end -}}
{{- end -}}
{{- if gt (mulf 1.1 .grpcMaxConnectionAgeSeconds | addf 5) (float64 .preStopSeconds) -}}
{{- fail (printf "%s: preStopSeconds (%v) must be 1.1 * grpcMaxConnectionAgeSeconds (%v) + 5 or more: gRPC clients would still be connected when the server stops, and their requests would fail" $where .preStopSeconds .grpcMaxConnectionAgeSeconds) -}}
{{- end -}}
{{- if lt (int .startSeconds) (int .loadSeconds) -}}
{{- fail (printf "%s: startSeconds (%v) is less than loadSeconds (%v): the container would be restarted while it still loads" $where .startSeconds .loadSeconds) -}}
{{- end -}}
{{- if and (eq (int .update.maxSurge) 0) (eq (int .update.maxUnavailable) 0) -}}
{{- fail (printf "%s: update.maxSurge and update.maxUnavailable are both 0: no update could ever begin" $where) -}}
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
{{- fail (printf "%s: autoscaling.by is keda: give autoscaling.prometheusAddress" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.ingress -}}
{{- if and .enabled (not .host) }}{{ fail "ingress.enabled: give ingress.host; without one, requests for any host would be taken" }}{{ end -}}
{{- if and .enabled .grpc.enabled (not .grpc.host) }}{{ fail "ingress.grpc.enabled: give ingress.grpc.host" }}{{ end -}}
{{- end -}}
{{- if and .Values.route.enabled (not .Values.route.parentRefs) }}{{ fail "route.enabled: name the Gateway in route.parentRefs" }}{{ end -}}
{{- end }}
