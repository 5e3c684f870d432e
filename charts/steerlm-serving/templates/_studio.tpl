{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* Where the ratings of the studio are kept: words, variables, volume and mount of the policy's server. */ -}}

{{- /* Their address; empty if nobody can rate. */ -}}
{{- define "steerlm.ratings" -}}
{{- if eq .kind "policy" }}{{ .model.ratings.uri }}{{ end -}}
{{- end }}

{{- define "steerlm.ratingsInS3" -}}
{{- if hasPrefix "s3://" (include "steerlm.ratings" .) }}true{{ end -}}
{{- end }}

{{- define "steerlm.ratingsClaim" -}}
{{- $uri := include "steerlm.ratings" . -}}
{{- if hasPrefix "pvc://" $uri }}{{ (splitn "/" 2 (trimPrefix "pvc://" $uri))._0 }}{{ end -}}
{{- end }}

{{- define "steerlm.studioArgs" -}}
{{- if and (eq .kind "policy") (not .model.studio) }}
- --no-studio
{{- end }}
{{- if include "steerlm.ratingsInS3" . }}
- --ratings={{ .model.ratings.uri }}
{{- else if include "steerlm.ratingsClaim" . }}
- --ratings=/ratings/{{ (splitn "/" 2 (trimPrefix "pvc://" .model.ratings.uri))._1 | trimSuffix "/" }}
{{- end }}
{{- end }}
