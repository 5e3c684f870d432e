{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}
{{- /* What a schema cannot say: values that contradict each other. Each message names the keys and what to do. */ -}}

{{- define "steerlm.validate" -}}
{{- if not (or .Values.policy.model.uri .Values.reward.model.uri) -}}
{{- fail "nothing to serve: set policy.model.uri, reward.model.uri or both" -}}
{{- end -}}
{{- if and (eq (toString .Values.rollout.maxSurge) "0") (eq (toString .Values.rollout.maxUnavailable) "0") -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0: an upgrade could neither add nor remove a pod" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the gateways that the route belongs to" -}}
{{- end -}}
{{- range $kind := list "policy" "reward" -}}
{{- $model := index $.Values $kind -}}
{{- if $model.model.uri -}}
{{- include "steerlm.validateModel" (dict "root" $ "kind" $kind "model" $model) -}}
{{- end -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not (or .Values.policy.host .Values.reward.host)) -}}
{{- fail "ingress.enabled and httpRoute.enabled need policy.host, reward.host or both" -}}
{{- end -}}
{{- end }}

{{- define "steerlm.validateModel" -}}
{{- $source := .model.model -}}
{{- if and $source.digest (not (hasPrefix "s3://" $source.uri)) -}}
{{- fail (printf "%s.model.digest: only artifacts in s3:// have a digest; for hf:// write @COMMIT behind the name" .kind) -}}
{{- end -}}
{{- if and (hasPrefix "s3://" $source.uri) (not .root.Values.store.existingSecret) -}}
{{- fail (printf "%s.model.uri is in s3://: set store.existingSecret, a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" .kind) -}}
{{- end -}}
{{- if and (include "steerlm.ratingsInS3" .) (not .model.ratings.existingSecret) -}}
{{- fail "policy.ratings.uri is in s3://: set policy.ratings.existingSecret, a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that may write there" -}}
{{- end -}}
{{- if and (include "steerlm.ratings" .) (not .model.studio) -}}
{{- fail "policy.ratings.uri is set, but people rate in the studio: set policy.studio to true" -}}
{{- end -}}
{{- $needed := int (include "steerlm.graceSeconds" .) -}}
{{- $given := .root.Values.shutdown.terminationGracePeriodSeconds -}}
{{- if and $given (lt (int $given) $needed) -}}
{{- fail (printf "shutdown.terminationGracePeriodSeconds is %d, %s needs %d: preStopSeconds, drainSeconds, 10 seconds and, with vLLM, vllm.shutdownSeconds" (int $given) .kind $needed) -}}
{{- end -}}
{{- if and .root.Values.apiKeys.existingSecret (include "steerlm.rewardUrl" .) (not .model.rewardUrl) (not .model.rewardKey.existingSecret) -}}
{{- fail "the reward server asks for a key: set policy.rewardKey.existingSecret, a Secret with one of those in apiKeys, or policy.bestOfN to false" -}}
{{- end -}}
{{- include "steerlm.validateBudget" . -}}
{{- if and .model.autoscaling.kind (eq .model.engine "vllm") (hasPrefix "vllm:" .model.autoscaling.metric) (not (include "steerlm.ownQueue" .model.autoscaling.metric)) (not .root.Values.vllm.exposeMetrics) -}}
{{- fail (printf "%s.autoscaling: %s is vLLM's own metric: set vllm.exposeMetrics, or metric to vllm:num_requests_waiting" .kind .model.autoscaling.metric) -}}
{{- end -}}
{{- with .model.autoscaling -}}
{{- if and .kind (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas is %d, more than maxReplicas, %d" $.kind (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if and (eq .kind "keda") (not .prometheus) -}}
{{- fail (printf "%s.autoscaling.kind keda needs %s.autoscaling.prometheus: the address that KEDA asks" $.kind $.kind) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* A budget that lets no pod go blocks every drain of a node. */ -}}
{{- define "steerlm.validateBudget" -}}
{{- $replicas := int (include "steerlm.replicas" .) -}}
{{- $least := .model.podDisruptionBudget.minAvailable -}}
{{- if not (kindIs "invalid" $least) -}}
{{- $kept := int $least -}}
{{- if hasSuffix "%" (toString $least) -}}
{{- $kept = int (ceil (divf (mulf $replicas (int (trimSuffix "%" $least))) 100)) -}}
{{- end -}}
{{- if ge $kept $replicas -}}
{{- fail (printf "%s.podDisruptionBudget.minAvailable is %v, which keeps %d of %d pods: no node with such a pod could be drained; lower it or add replicas" .kind $least $kept $replicas) -}}
{{- end -}}
{{- end -}}
{{- end }}
