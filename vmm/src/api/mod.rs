//! The API: what can be asked of the VMM thread, and what it answers.
//!
//! Does: requests, responses and errors as types, and the way to the VMM thread and back. Does not:
//! know HTTP (`http` does) or carry anything out (`crate::vmm` does).
//!
//! Invariant: every request is answered exactly once; one that is dropped on the way is answered
//! with an error.

mod call;
mod error;
pub mod http;

use serde::{Deserialize, Serialize};

use crate::config::{
    FtEnableConfig, FtOverrideConfig, FtReceiveConfig, NewDevice, ResizeConfig, VmConfig,
};
use crate::control::Counters;
use crate::device_tree::DeviceTree;
use crate::status::{FtInfo, PciDeviceInfo, VmState};

pub use call::{ApiCall, ApiHandle, Reply};
pub use error::ApiError;

/// What can be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// `vmm.ping`
    VmmPing,
    /// `vmm.shutdown`
    VmmShutdown,
    /// `vm.info`
    VmInfo,
    /// `vm.counters`
    VmCounters,
    /// `vm.create`
    VmCreate(Box<VmConfig>),
    /// `vm.boot`
    VmBoot,
    /// `vm.delete`
    VmDelete,
    /// `vm.shutdown`
    VmShutdown,
    /// `vm.reboot`
    VmReboot,
    /// `vm.pause`
    VmPause,
    /// `vm.resume`
    VmResume,
    /// `vm.power-button`
    VmPowerButton,
    /// `vm.resize`
    VmResize(ResizeConfig),
    /// `vm.nmi`
    VmNmi,
    /// `vm.add-disk`, `vm.add-net`, `vm.add-vsock`
    VmAddDevice(Box<NewDevice>),
    /// `vm.remove-device`
    VmRemoveDevice(RemoveDevice),
    /// `vm.ft-enable`
    FtEnable(FtEnableConfig),
    /// `vm.ft-receive`
    FtReceive(FtReceiveConfig),
    /// `vm.ft-info`
    FtInfo,
    /// `vm.ft-disable`
    FtDisable,
    /// `vm.ft-failover`
    FtFailover,
    /// `vm.ft-override`
    FtOverride(FtOverrideConfig),
}

/// What `vm.remove-device` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveDevice {
    /// The device's name.
    pub id: String,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// It is done.
    Done,
    /// To `vmm.shutdown`.
    ShutDown,
    /// To `vmm.ping`.
    Ping(VmmPing),
    /// To `vm.info`.
    Info(Box<VmInfo>),
    /// To `vm.counters`.
    Counters(Counters),
    /// To `vm.add-disk`, `vm.add-net` and `vm.add-vsock` of a running VM.
    Device(PciDeviceInfo),
    /// To `vm.ft-info`.
    Ft(FtInfo),
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmPing {
    /// The version, with what else tells builds apart.
    pub build_version: String,
    /// The version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// What this build can do beyond the usual.
    pub features: Vec<String>,
}

impl VmmPing {
    /// This process.
    pub fn here() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        VmmPing {
            build_version: format!("v{version}"),
            version: version.to_owned(),
            pid: std::process::id(),
            features: vec!["ft".to_owned()],
        }
    }
}

/// The answer to `vm.info`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmInfo {
    /// As it was created.
    pub config: VmConfig,
    /// Where it is in its life.
    pub state: VmState,
    /// Guest memory in bytes.
    pub memory_actual_size: u64,
    /// The devices of a VM that has booted, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_tree: Option<DeviceTree>,
}
