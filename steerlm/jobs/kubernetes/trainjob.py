# SPDX-License-Identifier: Apache-2.0
"""The manifests of a TrainJob (trainer.kubeflow.org/v1alpha1) and its state.

A TrainJob names a TrainingRuntime, which has the pod's template. That is made here too, in the job's namespace, and
named by its content: a runtime never changes, jobs that are alike share one, and nothing has to be installed before.
What differs between jobs and between attempts is in the TrainJob. Two limits of the Trainer:

- It has no time to live: one on the runtime's JobSet would make the Trainer start an ended job again. The launcher
  deletes the object instead.
- The tolerations of a Kueue flavor replace those of the template, so a flavor that has any must name them all.
"""

from collections.abc import Mapping
from typing import Any

from steerlm import attempt
from steerlm.checksums import digest_json
from steerlm.jobs.kubernetes import labels
from steerlm.jobs.kubernetes.condition import ObjectState, state, true_conditions
from steerlm.jobs.kubernetes.pod import Manifest, PodPlan, metadata, pod_template

CONTAINER = "node"
"""The Trainer looks for a container and a replicated job of this name."""
API_VERSION = "trainer.kubeflow.org/v1alpha1"
MANAGER = "steerlm.dev/launcher"
"""Owner of the changes that a TrainJob makes to its runtime's template, beside those of Kueue."""
DIGEST_LENGTH = 10


def manifests(plan: PodPlan) -> list[Manifest]:
    """Return the TrainingRuntime and the TrainJob of an attempt."""
    template = pod_template(plan, CONTAINER, "pod_entry")
    container = template["spec"]["containers"][0]
    command = container.pop("command")
    own = {attempt.FOLDER, *plan.environment}
    environment = [entry for entry in container["env"] if entry["name"] in own]
    container["env"] = [entry for entry in container["env"] if entry["name"] not in own]
    patch: Manifest = {
        "metadata": {
            "labels": {name: template["metadata"]["labels"].pop(name) for name in (labels.JOB, labels.ATTEMPT)}
        }
    }
    if affinity := template["spec"].pop("affinity", None):
        patch["spec"] = {"affinity": affinity}
    runtime = _runtime(plan, template)
    job = {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": metadata(plan),
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": runtime["metadata"]["name"],
            },
            "suspend": plan.settings.queue is not None,  # the queue admits a job by setting it to false
            "activeDeadlineSeconds": plan.deadline_seconds,
            "trainer": {
                "numNodes": plan.nodes,
                "numProcPerNode": 1,  # the entry starts the node's processes
                "command": command,
                "env": environment,
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {"replicatedJobs": [{"name": CONTAINER, "template": {"spec": {"template": patch}}}]}
                        }
                    },
                }
            ],
        },
    }
    return [runtime, job]


def _runtime(plan: PodPlan, template: Manifest) -> Manifest:
    template["spec"]["restartPolicy"] = "Never"
    spec = {
        "mlPolicy": {"numNodes": 1, "torch": {}},  # the TrainJob says how many
        "template": {
            "spec": {
                "failurePolicy": {"maxRestarts": 0},
                "replicatedJobs": [
                    {
                        "name": CONTAINER,
                        "replicas": 1,
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {"backoffLimit": 0, "template": template},
                        },
                    }
                ],
            }
        },
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        "metadata": {
            "name": f"{plan.component}-{digest_json(spec)[:DIGEST_LENGTH]}",
            "namespace": plan.settings.namespace,
            "labels": {labels.MANAGED_BY: labels.STEERLM, labels.COMPONENT: plan.component},
        },
        "spec": spec,
    }


def object_state(manifest: Mapping[str, Any]) -> ObjectState:
    """Return the state of a TrainJob. It has no condition for running: it does when the pods of all nodes are ready."""
    conditions = true_conditions(manifest)
    if "Failed" in conditions:
        return state("failed", conditions["Failed"])
    if "Complete" in conditions:
        return state("succeeded", conditions["Complete"])
    if manifest["spec"].get("suspend"):
        return state("queued", conditions.get("Suspended", {}))
    jobs = (manifest.get("status") or {}).get("jobsStatus") or []
    ready = any(job["name"] == CONTAINER and job.get("ready") for job in jobs)
    return ObjectState("running" if ready else "created")
