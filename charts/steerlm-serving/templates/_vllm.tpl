{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* vLLM beside the server, and the GPUs of whoever computes. */ -}}

{{- /* A container's resources, with the pod's GPUs if its engine is the model's. */ -}}
{{- define "steerlm.resources" -}}
{{- $gpu := .model.gpu -}}
{{- if and (eq .engine .model.engine) (gt (int $gpu.count) 0) -}}
{{- if $gpu.deviceClass -}}
{{ toYaml (set (deepCopy .resources) "claims" (list (dict "name" "gpus"))) }}
{{- else -}}
{{- $limits := set (deepCopy (.resources.limits | default dict)) $gpu.resource (int $gpu.count) -}}
{{ toYaml (set (deepCopy .resources) "limits" $limits) }}
{{- end -}}
{{- else -}}
{{ toYaml .resources }}
{{- end -}}
{{- end }}

{{- define "steerlm.vllmArgs" -}}
{{- $vllm := .model.vllm -}}
- {{ include "steerlm.modelFolder" . }}
- --served-model-name={{ .model.name }}
- --host={{ ternary "0.0.0.0" "127.0.0.1" .root.Values.vllm.exposeMetrics }}
- --port=8000
- --shutdown-timeout={{ .root.Values.vllm.shutdownSeconds }}
{{- if eq .kind "reward" }}
- --runner=pooling
- --convert=classify
{{- end }}
{{- if gt (int .model.gpu.count) 1 }}
- --tensor-parallel-size={{ int .model.gpu.count }}
{{- end }}
{{- with $vllm.maxModelLen }}
- --max-model-len={{ int . }}
{{- end }}
{{- with $vllm.gpuMemoryUtilization }}
- --gpu-memory-utilization={{ . }}
{{- end }}
{{- range $vllm.args }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Asked from inside: by default it listens to its own pod alone. */ -}}
{{- define "steerlm.vllmProbe" -}}
exec:
  command: [python3, -c, "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=10)"]
timeoutSeconds: 15
periodSeconds: 10
{{- end }}

{{- /* A sidecar: it starts before the server, which waits until it is up, and ends after the server has drained. */ -}}
{{- define "steerlm.vllm" -}}
- name: vllm
  restartPolicy: Always
  image: {{ include "steerlm.vllmImage" .root }}
  imagePullPolicy: {{ .root.Values.vllm.image.pullPolicy }}
  command: {{ toJson .root.Values.vllm.command }}
  args:
    {{- include "steerlm.vllmArgs" . | nindent 4 }}
  env:
    # The image's user is root; another one has no name and no home in it.
    - {name: HOME, value: /tmp}
    - {name: USER, value: steerlm}
    - {name: XDG_CACHE_HOME, value: /tmp/cache}
    - {name: TORCHINDUCTOR_CACHE_DIR, value: /tmp/cache/inductor}
    - {name: TRITON_CACHE_DIR, value: /tmp/cache/triton}
    - {name: HF_HUB_OFFLINE, value: "1"}
    - {name: VLLM_NO_USAGE_STATS, value: "1"}
    - {name: DO_NOT_TRACK, value: "1"}
    {{- with .model.vllm.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if .root.Values.vllm.exposeMetrics }}
  ports:
    - {name: vllm, containerPort: 8000}
  {{- end }}
  resources:
    {{- include "steerlm.resources" (dict "engine" "vllm" "resources" .model.vllm.resources "model" .model) | nindent 4 }}
  startupProbe:
    {{- include "steerlm.vllmProbe" . | nindent 4 }}
    failureThreshold: {{ max 1 (div (mul .root.Values.probes.startup.periodSeconds .root.Values.probes.startup.failureThreshold) 10) }}
  livenessProbe:
    {{- include "steerlm.vllmProbe" . | nindent 4 }}
    failureThreshold: 12
  securityContext:
    {{- toYaml .root.Values.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - {name: models, mountPath: /models, readOnly: true}
    - {name: vllm-tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
{{- end }}

{{- define "steerlm.vllmVolumes" -}}
- name: vllm-tmp
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .model.vllm.sharedMemory | default (printf "%dGi" (max 1 (int .model.gpu.count))) }}
{{- end }}
