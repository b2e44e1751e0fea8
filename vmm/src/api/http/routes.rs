//! The endpoints.
//!
//! Does: find what a path, a verb and a body ask for. Does not: carry it out.
//!
//! Invariant: paths match exactly. A path that Cloud Hypervisor has and this program does not have
//! yet is told apart from one that nobody has.

use std::os::fd::OwnedFd;

use dbs_uhttp::Method;
use serde::de::DeserializeOwned;

use crate::api::{ApiError, Request};
use crate::config::{ConfigError, NetConfig, NewDevice, VmConfig};

/// The root of all paths.
const ROOT: &str = "/api/v1/";

/// A body and the descriptors that came with it.
type Read = fn(&[u8], Vec<OwnedFd>) -> Result<Request, ConfigError>;

/// Name, verb, and how the body becomes a request.
const ENDPOINTS: [(&str, Method, Read); 24] = [
    ("vmm.ping", Method::Get, |_, _| Ok(Request::VmmPing)),
    ("vmm.shutdown", Method::Put, |_, _| Ok(Request::VmmShutdown)),
    ("vm.info", Method::Get, |_, _| Ok(Request::VmInfo)),
    ("vm.counters", Method::Get, |_, _| Ok(Request::VmCounters)),
    ("vm.create", Method::Put, |body, _| {
        Ok(Request::VmCreate(Box::new(VmConfig::from_json(body)?)))
    }),
    ("vm.boot", Method::Put, |_, _| Ok(Request::VmBoot)),
    ("vm.delete", Method::Put, |_, _| Ok(Request::VmDelete)),
    ("vm.shutdown", Method::Put, |_, _| Ok(Request::VmShutdown)),
    ("vm.reboot", Method::Put, |_, _| Ok(Request::VmReboot)),
    ("vm.pause", Method::Put, |_, _| Ok(Request::VmPause)),
    ("vm.resume", Method::Put, |_, _| Ok(Request::VmResume)),
    ("vm.power-button", Method::Put, |_, _| {
        Ok(Request::VmPowerButton)
    }),
    ("vm.resize", Method::Put, |body, _| {
        Ok(Request::VmResize(json(body)?))
    }),
    ("vm.nmi", Method::Put, |_, _| Ok(Request::VmNmi)),
    ("vm.add-disk", Method::Put, |body, _| {
        add_device(NewDevice::Disk(json(body)?))
    }),
    ("vm.add-net", Method::Put, |body, descriptors| {
        let mut net: NetConfig = json(body)?;
        // Numbers mean nothing here; what came with the request does.
        net.take_descriptors(descriptors);
        add_device(NewDevice::Net(net))
    }),
    ("vm.add-vsock", Method::Put, |body, _| {
        add_device(NewDevice::Vsock(json(body)?))
    }),
    ("vm.remove-device", Method::Put, |body, _| {
        Ok(Request::VmRemoveDevice(json(body)?))
    }),
    ("vm.ft-enable", Method::Put, |body, _| {
        Ok(Request::FtEnable(json(body)?))
    }),
    ("vm.ft-receive", Method::Put, |body, _| {
        Ok(Request::FtReceive(json(body)?))
    }),
    ("vm.ft-info", Method::Get, |_, _| Ok(Request::FtInfo)),
    ("vm.ft-disable", Method::Put, |_, _| Ok(Request::FtDisable)),
    ("vm.ft-failover", Method::Put, |_, _| {
        Ok(Request::FtFailover)
    }),
    ("vm.ft-override", Method::Put, |body, _| {
        Ok(Request::FtOverride(json(body)?))
    }),
];

/// Endpoints of Cloud Hypervisor that are not there yet.
const LATER: [&str; 16] = [
    "vm.add-device",
    "vm.add-fs",
    "vm.add-generic-vhost-user",
    "vm.add-pmem",
    "vm.add-user-device",
    "vm.add-vdpa",
    "vm.coredump",
    "vm.receive-migration",
    "vm.resize-disk",
    "vm.resize-zone",
    "vm.restore",
    "vm.send-migration",
    "vm.snapshot",
    "vmm.nmi",
    "vm.migration-progress",
    "vm.cancel-migration",
];

fn add_device(device: NewDevice) -> Result<Request, ConfigError> {
    device.validate()?;
    Ok(Request::VmAddDevice(Box::new(device)))
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ConfigError> {
    serde_json::from_slice(body).map_err(ConfigError::Json)
}

/// The request that `method` on `path` with `body` makes. Descriptors that it has no use for are
/// closed.
pub(super) fn find(
    method: Method,
    path: &str,
    body: &[u8],
    descriptors: Vec<OwnedFd>,
) -> Result<Request, ApiError> {
    let no_such = || ApiError::NoSuchEndpoint {
        path: path.to_owned(),
    };
    let name = path.strip_prefix(ROOT).ok_or_else(no_such)?;
    let Some((_, verb, read)) = ENDPOINTS.iter().find(|(endpoint, ..)| *endpoint == name) else {
        return if LATER.contains(&name) {
            Err(ApiError::NotYet {
                endpoint: name.to_owned(),
            })
        } else {
            Err(no_such())
        };
    };
    if *verb != method {
        return Err(ApiError::WrongVerb {
            endpoint: name.to_owned(),
            verb: verb.to_str(),
        });
    }
    Ok(read(body, descriptors)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: Method, path: &str, body: &[u8]) -> Result<Request, ApiError> {
        super::find(method, path, body, Vec::new())
    }

    #[test]
    fn paths_match_exactly() {
        let get = |path| find(Method::Get, path, b"");
        assert_eq!(get("/api/v1/vmm.ping").unwrap(), Request::VmmPing);
        for wrong in [
            "/api/v1/vmm.ping/",
            "/api/v1/vmm",
            "/api/v2/vmm.ping",
            "/",
            "",
            "/api/v1",
        ] {
            let error = get(wrong).unwrap_err();
            assert_eq!(error.status(), 404, "{wrong}: {error}");
        }
    }

    #[test]
    fn verbs_and_bodies_are_checked() {
        assert_eq!(
            find(Method::Put, "/api/v1/vmm.ping", b"")
                .unwrap_err()
                .status(),
            400
        );
        assert_eq!(
            find(Method::Get, "/api/v1/vm.boot", b"")
                .unwrap_err()
                .status(),
            400
        );
        assert_eq!(
            find(Method::Put, "/api/v1/vm.create", b"")
                .unwrap_err()
                .status(),
            400
        );
        assert_eq!(
            find(Method::Put, "/api/v1/vm.create", b"{}")
                .unwrap_err()
                .status(),
            400
        );
        let body = br#"{"payload":{"kernel":"/k"}}"#;
        find(Method::Put, "/api/v1/vm.create", body).unwrap();
        let body = br#"{"peer":"tcp:127.0.0.1:7000","lease":"file:/l"}"#;
        find(Method::Put, "/api/v1/vm.ft-enable", body).unwrap();
        assert_eq!(
            find(Method::Put, "/api/v1/vm.snapshot", b"")
                .unwrap_err()
                .status(),
            500
        );
    }
}
