//! What Chalk's SDK asks for as we ask for it. What is not served is refused by name: a sandbox that
//! silently is another than the one asked for is worse than none.

use chalk_core::wire::{SandboxLimits, SandboxNetwork, SandboxRequest};
use tonic::Status;

use super::super::proto::chalk::container::v1::{
    ChalkContainerSpec, ComputeClass, ContainerSecurityPolicy, ExecutionBackend, ExecutionTarget,
    KernelPolicy, NetworkPolicy, ResourceLimits, RestartPolicy, VolumeMount,
    chalk_container_spec::Placement,
};
use super::{quantity, seconds};

/// What the SDK runs where nothing else is said: it waits, and needs a `sleep` in the image.
const WAIT: [&str; 2] = ["sleep", "infinity"];
/// Together they deny everything.
const EVERYTHING: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// The request, with the volumes that are yet to be found.
pub(super) fn request(
    spec: ChalkContainerSpec,
) -> Result<(SandboxRequest, Vec<VolumeMount>), Status> {
    served(&spec)?;
    if spec.image.is_empty() {
        return Err(Status::invalid_argument("spec.image: expected an image"));
    }
    let mut limits = limits(spec.resources.unwrap_or_default())?;
    if let Some(lifetime) = &spec.lifetime {
        limits.timeout_seconds = Some(seconds("spec.lifetime", lifetime)?);
    }
    // An idle process of ours waits as well as theirs, in any image.
    let idle = spec.entrypoint == WAIT;
    let entrypoint = (!idle && !spec.entrypoint.is_empty()).then_some(spec.entrypoint);
    let request = SandboxRequest {
        image: spec.image,
        entrypoint,
        idle,
        name: (!spec.name.is_empty()).then_some(spec.name),
        tags: spec.tags,
        env: spec.env_vars,
        limits,
        network: network(spec.network_policy)?,
        ..SandboxRequest::default()
    };
    Ok((request, spec.volumes))
}

/// Refuses what is not served.
fn served(spec: &ChalkContainerSpec) -> Result<(), Status> {
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let kernel = spec.security_policy.as_ref();
    let kernel = kernel.map(ContainerSecurityPolicy::kernel_policy);
    let pool = match &spec.placement {
        Some(Placement::HostPlacement(placement)) => text(&placement.host_pool_id),
        None => false,
    };
    let target = spec.execution_target.as_ref();
    let target = target.map(ExecutionTarget::backend);
    let detectors = spec.resource_detection.as_ref();
    let refused = [
        (
            spec.port.is_some(),
            "port",
            "ports are not published: processes listen on the network of their node",
        ),
        (
            spec.enable_ssh == Some(true),
            "enable_ssh",
            "there is no SSH server",
        ),
        (text(&spec.protocol), "protocol", "ports are not published"),
        (text(&spec.routing), "routing", "ports are not published"),
        (
            text(&spec.authentication),
            "authentication",
            "ports are not published",
        ),
        (
            !spec.secret_refs.is_empty(),
            "secret_refs",
            "there is no store of secrets: pass values by env",
        ),
        (
            kernel == Some(KernelPolicy::Open),
            "security_policy.kernel_policy",
            "system calls are always restricted",
        ),
        (
            spec.compute_class() == ComputeClass::K8s,
            "compute_class",
            "sandboxes run on hosts",
        ),
        (
            spec.startup_probe.is_some(),
            "startup_probe",
            "sandboxes are not probed",
        ),
        (
            spec.readiness_probe.is_some(),
            "readiness_probe",
            "sandboxes are not probed",
        ),
        (
            spec.restart_policy() == RestartPolicy::Always,
            "restart_policy",
            "sandboxes are not started again",
        ),
        (
            spec.chalk_workload_identity.is_some(),
            "chalk_workload_identity",
            "sandboxes have no identity",
        ),
        (
            !spec.managed_ssh.is_empty(),
            "managed_ssh",
            "SSH is not managed",
        ),
        (
            text(&spec.restore_from_snapshot_id),
            "restore_from_snapshot_id",
            "there are no snapshots",
        ),
        (
            spec.snapshot_requirements.is_some(),
            "snapshot_requirements",
            "there are no snapshots",
        ),
        (
            pool,
            "host_placement.host_pool_id",
            "there are no pools of hosts",
        ),
        (
            target == Some(ExecutionBackend::Serverless),
            "execution_target.backend",
            "sandboxes run on the nodes of this service",
        ),
        (
            detectors.is_some_and(|d| !d.detectors.is_empty()),
            "resource_detection",
            "what leaves a sandbox is not looked into",
        ),
    ];
    match refused.into_iter().find(|(there, ..)| *there) {
        None => Ok(()),
        Some((_, field, why)) => Err(Status::unimplemented(format!(
            "spec.{field} is not served here: {why}"
        ))),
    }
}

fn limits(resources: ResourceLimits) -> Result<SandboxLimits, Status> {
    let parse = |field: &str, text: &str| {
        quantity::parse(text).ok_or_else(|| {
            Status::invalid_argument(format!(
                "spec.resources.{field}: `{text}` is no quantity above 0, such as 500m, 2 or 4Gi"
            ))
        })
    };
    if resources.gpu.is_some_and(|gpu| !gpu.is_empty()) {
        return Err(Status::unimplemented(
            "spec.resources.gpu is not served here: kinds of GPUs are not known; `chalk compute sandbox run --gpus` gives those of a node",
        ));
    }
    let cpus = resources.cpu.map(|cpu| parse("cpu", &cpu)).transpose()?;
    let memory = resources.memory.map(|memory| parse("memory", &memory));
    Ok(SandboxLimits {
        cpus,
        // Saturates, which is no limit either.
        memory: memory.transpose()?.map(|bytes| bytes as u64),
        ..SandboxLimits::default()
    })
}

fn network(policy: Option<NetworkPolicy>) -> Result<SandboxNetwork, Status> {
    let Some(policy) = policy else {
        return Ok(SandboxNetwork::Host);
    };
    let denied = &policy.denied_routes;
    let nothing = policy.allowed_routes.is_empty() && policy.allowed_hosts.is_empty();
    if nothing
        && EVERYTHING
            .iter()
            .all(|route| denied.iter().any(|denied| denied == route))
    {
        return Ok(SandboxNetwork::None);
    }
    Err(Status::unimplemented(
        "spec.network_policy is not served here, save one that denies 0.0.0.0/0 and ::/0 and allows nothing: sandboxes have the network of their node, or none",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::chalk::container::v1::{AllowedRoute, SecretRef};

    fn spec(change: impl FnOnce(&mut ChalkContainerSpec)) -> ChalkContainerSpec {
        let mut spec = ChalkContainerSpec {
            image: "app".to_owned(),
            ..ChalkContainerSpec::default()
        };
        change(&mut spec);
        spec
    }

    #[test]
    fn what_is_served_is_taken_over() {
        let (request, volumes) = request(spec(|spec| {
            spec.name = "box".into();
            spec.entrypoint = WAIT.map(str::to_owned).to_vec();
            spec.env_vars.insert("A".into(), "b".into());
            spec.tags.insert("k".into(), "v".into());
            spec.lifetime = Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            });
            spec.resources = Some(ResourceLimits {
                cpu: Some("500m".into()),
                memory: Some("1Gi".into()),
                gpu: None,
            });
            spec.set_restart_policy(RestartPolicy::Never);
            spec.set_compute_class(ComputeClass::Host);
            spec.enable_ssh = Some(false);
        }))
        .unwrap();
        assert!(volumes.is_empty());
        let expect = SandboxRequest {
            image: "app".into(),
            idle: true,
            name: Some("box".into()),
            tags: [("k".to_owned(), "v".to_owned())].into(),
            env: [("A".to_owned(), "b".to_owned())].into(),
            limits: SandboxLimits {
                cpus: Some(0.5),
                memory: Some(1 << 30),
                timeout_seconds: Some(1.5),
                ..SandboxLimits::default()
            },
            ..SandboxRequest::default()
        };
        assert_eq!(request, expect);
    }

    #[test]
    fn entrypoints_and_networks() {
        let of = |change: fn(&mut ChalkContainerSpec)| request(spec(change)).unwrap().0;
        let own = of(|spec| spec.entrypoint = vec!["sleep".into(), "1".into()]);
        assert_eq!(
            own.entrypoint,
            Some(vec!["sleep".to_owned(), "1".to_owned()])
        );
        assert!(!own.idle);
        // That of the image.
        let none = of(|_| ());
        assert_eq!((none.entrypoint, none.idle), (None, false));
        let shut = of(|spec| {
            spec.network_policy = Some(NetworkPolicy {
                denied_routes: EVERYTHING.map(str::to_owned).to_vec(),
                ..NetworkPolicy::default()
            });
        });
        assert_eq!(shut.network, SandboxNetwork::None);
    }

    #[test]
    fn what_is_not_served_is_named() {
        let check = |change: fn(&mut ChalkContainerSpec), field: &str| {
            let status = request(spec(change)).err().unwrap();
            assert!(status.message().contains(field), "{status}");
        };
        check(|s| s.image.clear(), "spec.image");
        check(|s| s.port = Some(80), "spec.port");
        check(|s| s.secret_refs.push(SecretRef {}), "spec.secret_refs");
        check(
            |s| s.set_restart_policy(RestartPolicy::Always),
            "spec.restart_policy",
        );
        check(
            |s| s.set_compute_class(ComputeClass::K8s),
            "spec.compute_class",
        );
        check(
            |s| s.chalk_workload_identity = Some(Default::default()),
            "spec.chalk_workload_identity",
        );
        check(
            |s| s.network_policy = Some(NetworkPolicy::default()),
            "spec.network_policy",
        );
        check(
            |s| {
                s.network_policy = Some(NetworkPolicy {
                    allowed_routes: vec![AllowedRoute {}],
                    denied_routes: EVERYTHING.map(str::to_owned).to_vec(),
                    ..NetworkPolicy::default()
                });
            },
            "spec.network_policy",
        );
        let resources =
            |cpu: Option<&str>, memory: Option<&str>, gpu: Option<&str>| ResourceLimits {
                cpu: cpu.map(str::to_owned),
                memory: memory.map(str::to_owned),
                gpu: gpu.map(str::to_owned),
            };
        for (given, field) in [
            (resources(Some("much"), None, None), "spec.resources.cpu"),
            (resources(None, Some("-1"), None), "spec.resources.memory"),
            (
                resources(None, None, Some("nvidia-l4")),
                "spec.resources.gpu",
            ),
        ] {
            let status = request(spec(|spec| spec.resources = Some(given)))
                .err()
                .unwrap();
            assert!(status.message().contains(field), "{status}");
        }
    }
}
