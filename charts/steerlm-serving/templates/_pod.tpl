{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* The pod of one model: fetch, then vLLM if it computes, then the server. */ -}}

{{- define "steerlm.podMetadata" -}}
labels:
  {{- with .model.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "steerlm.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: steerlm
annotations:
  kubectl.kubernetes.io/default-container: server
  {{- if and (eq .kind "policy") .model.presets }}
  checksum/presets: {{ toYaml .model.presets | sha256sum }}
  {{- end }}
  {{- with .model.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "steerlm.podSpec" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "steerlm.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.shutdown.terminationGracePeriodSeconds | default (include "steerlm.graceSeconds" .) }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or (include "steerlm.fetched" .) (eq .model.engine "vllm") }}
initContainers:
  {{- if include "steerlm.fetched" . }}
  {{- include "steerlm.fetch" . | nindent 2 }}
  {{- end }}
  {{- if eq .model.engine "vllm" }}
  {{- include "steerlm.vllm" . | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  {{- include "steerlm.server" . | nindent 2 }}
volumes:
  {{- include "steerlm.modelVolume" . | nindent 2 }}
  - name: tmp
    emptyDir: {}
  {{- if eq .model.engine "vllm" }}
  {{- include "steerlm.vllmVolumes" . | nindent 2 }}
  {{- end }}
  {{- if and (eq .kind "policy") .model.presets }}
  - name: presets
    configMap: {name: {{ include "steerlm.name" . }}-presets}
  {{- end }}
  {{- if and (eq .kind "policy") .model.rewardKey.existingSecret }}
  - name: reward-key
    secret: {secretName: {{ .model.rewardKey.existingSecret }}, defaultMode: 0440}
  {{- end }}
  {{- with include "steerlm.ratingsClaim" . }}
  - name: ratings
    persistentVolumeClaim: {claimName: {{ . }}}
  {{- end }}
  {{- with $values.apiKeys.existingSecret }}
  - name: keys
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with $values.tls.existingSecret }}
  - name: tls
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with .model.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if and .model.gpu.deviceClass (gt (int .model.gpu.count) 0) }}
resourceClaims:
  - name: gpus
    resourceClaimTemplateName: {{ include "steerlm.name" . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with index $.model $key }}
{{ toYaml (dict $key .) }}
{{- end }}
{{- end }}
topologySpreadConstraints:
  {{- if .model.topologySpreadConstraints }}
  {{- toYaml .model.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "steerlm.selector" . | nindent 8 }}
  {{- end }}
{{- end }}
