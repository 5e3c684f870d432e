{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* The container that clients talk to: `steerlm serve generate` or `steerlm serve reward`. */ -}}

{{- define "steerlm.rewardUrl" -}}
{{- if eq .kind "policy" -}}
{{- if .model.rewardUrl -}}
{{ .model.rewardUrl }}
{{- else if and .model.bestOfN .root.Values.reward.model.uri -}}
{{ include "steerlm.url" (dict "root" .root "kind" "reward") }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Whether the policy asks this release's reward server over TLS, and nothing else in its container is checked by the
     variable: the client of an https:// store takes it for the only authorities. */ -}}
{{- define "steerlm.trust" -}}
{{- $asks := and (include "steerlm.rewardUrl" .) (not .model.rewardUrl) .root.Values.tls.existingSecret -}}
{{- $store := and (include "steerlm.ratingsInS3" .) (not (hasPrefix "http://" .root.Values.store.endpoint)) -}}
{{- $named := false -}}
{{- range .model.extraEnv -}}
{{- $named = or $named (eq .name "SSL_CERT_FILE") -}}
{{- end -}}
{{- if and $asks (not $store) (not $named) -}}true{{- end -}}
{{- end }}

{{- define "steerlm.serverArgs" -}}
{{- $values := .root.Values -}}
- serve
- {{ ternary "generate" "reward" (eq .kind "policy") }}
- {{ include "steerlm.modelFolder" . }}
- --name={{ .model.name }}
- --host=0.0.0.0
- --port={{ include "steerlm.port" . }}
- --drain-seconds={{ $values.shutdown.drainSeconds }}
- --log-format={{ $values.server.logFormat }}
{{- if eq .model.engine "vllm" }}
- --engine=vllm
- --upstream=http://127.0.0.1:8000
{{- end }}
{{- with $values.server.requestSeconds }}
- --request-seconds={{ . }}
{{- end }}
{{- if and (eq .kind "policy") .model.presets }}
- --presets=/etc/steerlm/presets/presets.yaml
{{- end }}
{{- with include "steerlm.rewardUrl" . }}
- --reward-url={{ . }}
{{- if $.model.rewardKey.existingSecret }}
- --reward-key-file=/etc/steerlm/reward-key/{{ $.model.rewardKey.key }}
{{- end }}
{{- end }}
{{- include "steerlm.studioArgs" . }}
{{- if $values.apiKeys.existingSecret }}
- --api-keys=/etc/steerlm/keys/{{ $values.apiKeys.key }}
{{- if $values.apiKeys.openMetrics }}
- --open-metrics
{{- end }}
{{- end }}
{{- if $values.tls.existingSecret }}
- --tls-cert=/etc/steerlm/tls/tls.crt
- --tls-key=/etc/steerlm/tls/tls.key
{{- end }}
{{- range .model.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Whether a metric is the queue as the server has it; before vLLM it is vLLM's, which vLLM's own metrics have too. */ -}}
{{- define "steerlm.ownQueue" -}}
{{- if has . (list "vllm:num_requests_running" "vllm:num_requests_waiting") }}true{{ end -}}
{{- end }}

{{- define "steerlm.probe" -}}
httpGet: {path: {{ .probe.path }}, port: http{{ if .root.Values.tls.existingSecret }}, scheme: HTTPS{{ end }}}
{{ omit .probe "path" | toYaml }}
{{- end }}

{{- define "steerlm.server" -}}
{{- $values := .root.Values -}}
- name: server
  {{- include "steerlm.image" . | nindent 2 }}
  command: [steerlm]
  args:
    {{- include "steerlm.serverArgs" . | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
    - {name: HF_HUB_OFFLINE, value: "1"}
    {{- if eq .model.engine "transformers" }}
    # Threads beyond the CPUs that the container has would wait for each other.
    - name: OMP_NUM_THREADS
      valueFrom: {resourceFieldRef: {containerName: server, resource: limits.cpu}}
    {{- end }}
    {{- if include "steerlm.ratingsInS3" . }}
    {{- include "steerlm.s3Env" (dict "store" $values.store "secret" .model.ratings.existingSecret) | nindent 4 }}
    {{- end }}
    {{- if include "steerlm.trust" . }}
    # Without a `ca.crt` in the Secret, the image's authorities remain.
    - {name: SSL_CERT_FILE, value: /etc/steerlm/tls/ca.crt}
    {{- end }}
    {{- with .model.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: http, containerPort: {{ include "steerlm.port" . }}}
  resources:
    {{- include "steerlm.resources" (dict "engine" "transformers" "resources" .model.resources "model" .model) | nindent 4 }}
  startupProbe:
    {{- include "steerlm.probe" (dict "root" .root "probe" $values.probes.startup) | nindent 4 }}
  readinessProbe:
    {{- include "steerlm.probe" (dict "root" .root "probe" $values.probes.readiness) | nindent 4 }}
  livenessProbe:
    {{- include "steerlm.probe" (dict "root" .root "probe" $values.probes.liveness) | nindent 4 }}
  lifecycle:
    preStop: {sleep: {seconds: {{ $values.shutdown.preStopSeconds }}}}
  securityContext:
    {{- toYaml $values.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: models, mountPath: /models, readOnly: true}
    - {name: tmp, mountPath: /tmp}
    {{- if and (eq .kind "policy") .model.presets }}
    - {name: presets, mountPath: /etc/steerlm/presets, readOnly: true}
    {{- end }}
    {{- if and (eq .kind "policy") .model.rewardKey.existingSecret }}
    - {name: reward-key, mountPath: /etc/steerlm/reward-key, readOnly: true}
    {{- end }}
    {{- if include "steerlm.ratingsClaim" . }}
    - {name: ratings, mountPath: /ratings}
    {{- end }}
    {{- if $values.apiKeys.existingSecret }}
    - {name: keys, mountPath: /etc/steerlm/keys, readOnly: true}
    {{- end }}
    {{- if $values.tls.existingSecret }}
    - {name: tls, mountPath: /etc/steerlm/tls, readOnly: true}
    {{- end }}
    {{- with .model.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
