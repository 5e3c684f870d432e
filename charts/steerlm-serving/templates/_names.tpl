{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* Names, labels and images. A model's templates take a dict: root, kind (policy or reward), model (its values). */ -}}

{{- define "steerlm.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "steerlm.name" -}}
{{ include "steerlm.fullname" .root }}-{{ .kind }}
{{- end }}

{{- define "steerlm.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "steerlm.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "steerlm.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: steerlm
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* Of one model's pods; never changes between releases. */ -}}
{{- define "steerlm.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .kind }}
{{- end }}

{{- define "steerlm.metadata" -}}
name: {{ include "steerlm.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "steerlm.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .kind }}
{{- end }}

{{- define "steerlm.port" -}}
{{ ternary 1427 1424 (eq .kind "policy") }}
{{- end }}

{{- define "steerlm.servicePort" -}}
{{ ternary .root.Values.service.policyPort .root.Values.service.rewardPort (eq .kind "policy") }}
{{- end }}

{{- define "steerlm.scheme" -}}
{{ ternary "https" "http" (not (empty .Values.tls.existingSecret)) }}
{{- end }}

{{- define "steerlm.url" -}}
{{ include "steerlm.scheme" .root }}://{{ include "steerlm.name" . }}.{{ .root.Release.Namespace }}.svc:{{ include "steerlm.servicePort" . }}
{{- end }}

{{- /* The image of a model's server, and of what fetches the model: one per pod. Before vLLM it is the gateway's, without
     torch; else it computes, on a GPU if there is one. */ -}}
{{- define "steerlm.image" -}}
{{- $vllm := eq .model.engine "vllm" -}}
{{- $image := ternary .root.Values.gateway.image .root.Values.image $vllm -}}
{{- $suffix := ternary "" "-cpu" (or $vllm (gt (int .model.gpu.count) 0)) -}}
{{- if $image.digest -}}
image: {{ $image.repository }}@{{ $image.digest }}
{{- else -}}
image: {{ $image.repository }}:{{ $image.tag | default (print .root.Chart.AppVersion $suffix) }}
{{- end }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end }}

{{- define "steerlm.vllmImage" -}}
{{- with .Values.vllm.image -}}
{{ .repository }}{{ ternary (printf "@%s" .digest) (printf ":%s" .tag) (not (empty .digest)) }}
{{- end -}}
{{- end }}

{{- /* Fewest pods at any time. */ -}}
{{- define "steerlm.replicas" -}}
{{ ternary .model.autoscaling.minReplicas .model.replicas (not (empty .model.autoscaling.kind)) }}
{{- end }}

{{- define "steerlm.graceSeconds" -}}
{{- $time := .root.Values.shutdown -}}
{{- $engine := ternary .root.Values.vllm.shutdownSeconds 0 (eq .model.engine "vllm") -}}
{{ add $time.preStopSeconds $time.drainSeconds $engine 10 }}
{{- end }}
