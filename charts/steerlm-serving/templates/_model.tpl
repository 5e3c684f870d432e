{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* Where a pod's model comes from: a claim that has it, or a volume that an init container fills and others read. */ -}}

{{- define "steerlm.fetched" -}}
{{- if not (hasPrefix "pvc://" .model.model.uri) }}true{{ end -}}
{{- end }}

{{- define "steerlm.modelAddress" -}}
{{ .model.model.uri }}{{ with .model.model.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* The model's folder. A fetched one is named after its address, so that a claim has room for several. */ -}}
{{- define "steerlm.modelFolder" -}}
{{- if include "steerlm.fetched" . -}}
/models/{{ .kind }}-{{ include "steerlm.modelAddress" . | sha256sum | trunc 16 }}
{{- else -}}
/models/{{ (splitn "/" 2 (trimPrefix "pvc://" .model.model.uri))._1 | trimSuffix "/" }}
{{- end -}}
{{- end }}

{{- define "steerlm.modelVolume" -}}
- name: models
  {{- if not (include "steerlm.fetched" .) }}
  persistentVolumeClaim:
    claimName: {{ (splitn "/" 2 (trimPrefix "pvc://" .model.model.uri))._0 }}
    readOnly: true
  {{- else if .root.Values.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .root.Values.cache.existingClaim }}}
  {{- else }}
  emptyDir: {{ with .root.Values.cache.sizeLimit }}{sizeLimit: {{ . }}}{{ else }}{}{{ end }}
  {{- end }}
{{- end }}

{{- /* The store's address, and the credentials in a Secret. */ -}}
{{- define "steerlm.s3Env" -}}
{{- if .store.endpoint -}}
- {name: S3_ENDPOINT, value: {{ .store.endpoint | quote }}}
{{- else -}}
- name: S3_ENDPOINT
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: S3_ENDPOINT, optional: true}}
{{- end }}
{{- with .store.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: {{ $.secret }}, key: {{ . }}}}
{{- end }}
- name: AWS_SESSION_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: AWS_SESSION_TOKEN, optional: true}}
{{- end }}

{{- /* Fetches the model unless it is there. Repeated after a failure, it goes on; what differs from the digest is refused.
     It alone sees the model store's credentials. */ -}}
{{- define "steerlm.fetch" -}}
- name: fetch
  {{- include "steerlm.image" . | nindent 2 }}
  command: [steerlm, model, fetch]
  args:
    - {{ include "steerlm.modelAddress" . | quote }}
    - {{ include "steerlm.modelFolder" . }}
  env:
    - {name: HOME, value: /tmp}
    {{- if hasPrefix "s3://" .model.model.uri }}
    {{- include "steerlm.s3Env" (dict "store" .root.Values.store "secret" .root.Values.store.existingSecret) | nindent 4 }}
    {{- else }}
    {{- with .root.Values.hub.endpoint }}
    - {name: HF_ENDPOINT, value: {{ . | quote }}}
    {{- end }}
    {{- with .root.Values.hub.existingSecret }}
    - name: HF_TOKEN
      valueFrom: {secretKeyRef: {name: {{ . }}, key: HF_TOKEN}}
    {{- end }}
    {{- end }}
  resources:
    {{- toYaml .root.Values.cache.resources | nindent 4 }}
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: tmp, mountPath: /tmp}
{{- end }}
