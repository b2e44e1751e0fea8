//! Virtual CPUs.
//!
//! Does: count, topology, address width and CPU model. Does not: single CPU features; what the guest
//! may know of its CPU is a fixed model.
//!
//! Invariant: a valid configuration has exactly one virtual CPU.

use machine::Profile;
use option_parser::{Key, OptionError, Options};
use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// How many virtual CPUs there are, and how they look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpusConfig {
    /// At boot.
    pub boot_vcpus: u32,
    /// At most.
    #[serde(default = "one")]
    pub max_vcpus: u32,
    /// Threads, cores, dies and packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<CpuTopology>,
    /// Width of physical addresses.
    #[serde(default = "phys_bits")]
    pub max_phys_bits: u8,
    /// The CPU model: an x86-64 level.
    #[serde(default)]
    pub profile: Profile,
}

/// How virtual CPUs are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTopology {
    /// Threads of a core.
    pub threads_per_core: u16,
    /// Cores of a die.
    pub cores_per_die: u16,
    /// Dies of a package.
    pub dies_per_package: u16,
    /// Packages.
    pub packages: u16,
}

fn one() -> u32 {
    1
}

fn phys_bits() -> u8 {
    46
}

impl Default for CpusConfig {
    fn default() -> Self {
        CpusConfig {
            boot_vcpus: 1,
            max_vcpus: 1,
            topology: None,
            max_phys_bits: phys_bits(),
            profile: Profile::default(),
        }
    }
}

impl CpusConfig {
    /// Reads `--cpus boot=,max=,topology=,max_phys_bits=,profile=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = ["boot", "max", "topology", "max_phys_bits", "profile"].map(Key::value);
        let options = Options::parse("--cpus", text, &keys)?;
        let boot_vcpus = options.get("boot")?.unwrap_or(1);
        let topology = match options.text("topology") {
            Some(text) => Some(CpuTopology::parse(text).ok_or_else(|| topology_error(&options))?),
            None => None,
        };
        Ok(CpusConfig {
            boot_vcpus,
            max_vcpus: options.get("max")?.unwrap_or(boot_vcpus),
            topology,
            max_phys_bits: options.get("max_phys_bits")?.unwrap_or_else(phys_bits),
            profile: match options.text("profile") {
                Some(text) => text
                    .parse()
                    .map_err(|_| options.invalid("profile", "v1, v2 or v3"))?,
                None => Profile::default(),
            },
        })
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let (boot, max) = (self.boot_vcpus, self.max_vcpus);
        if boot == 0 {
            return Err(ConfigError::NoVcpus);
        }
        if boot > 1 {
            return Err(ConfigError::TooManyVcpus { count: boot });
        }
        if boot > max {
            return Err(ConfigError::BootAboveMax { boot, max });
        }
        if max > 1 {
            return Err(ConfigError::TooManyVcpus { count: max });
        }
        if let Some(topology) = self.topology {
            let product = topology.product();
            if product != u64::from(max) {
                return Err(ConfigError::Topology { product, max });
            }
        }
        if !(36..=phys_bits()).contains(&self.max_phys_bits) {
            return Err(ConfigError::PhysBits {
                bits: self.max_phys_bits,
            });
        }
        Ok(())
    }
}

impl CpuTopology {
    /// Reads `threads:cores:dies:packages`.
    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u16> = text
            .split(':')
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()?;
        let [threads_per_core, cores_per_die, dies_per_package, packages] = numbers[..] else {
            return None;
        };
        Some(CpuTopology {
            threads_per_core,
            cores_per_die,
            dies_per_package,
            packages,
        })
    }

    fn product(self) -> u64 {
        u64::from(self.threads_per_core)
            * u64::from(self.cores_per_die)
            * u64::from(self.dies_per_package)
            * u64::from(self.packages)
    }
}

fn topology_error(options: &Options) -> OptionError {
    options.invalid("topology", "threads:cores:dies:packages, as in 1:1:1:1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_defaults() {
        assert_eq!(CpusConfig::parse("boot=1").unwrap(), CpusConfig::default());
        let two = CpusConfig::parse("boot=2").unwrap();
        assert_eq!((two.boot_vcpus, two.max_vcpus), (2, 2));
        assert!(matches!(
            two.validate(),
            Err(ConfigError::TooManyVcpus { count: 2 })
        ));
        let max = CpusConfig::parse("max=4").unwrap();
        assert!(matches!(
            max.validate(),
            Err(ConfigError::TooManyVcpus { count: 4 })
        ));
        for profile in Profile::ALL {
            let cpus = CpusConfig::parse(&format!("profile={profile}")).unwrap();
            assert_eq!(cpus.profile, profile);
            cpus.validate().unwrap();
        }
        CpusConfig::parse("profile=v4").unwrap_err();
        let bits = CpusConfig::parse("max_phys_bits=52").unwrap();
        assert!(matches!(
            bits.validate(),
            Err(ConfigError::PhysBits { bits: 52 })
        ));
    }

    #[test]
    fn topology_must_match() {
        CpusConfig::parse("topology=1:1:1:1")
            .unwrap()
            .validate()
            .unwrap();
        let four = CpusConfig::parse("topology=2:2:1:1").unwrap();
        assert!(matches!(
            four.validate(),
            Err(ConfigError::Topology { product: 4, max: 1 })
        ));
        CpusConfig::parse("topology=1:1").unwrap_err();
    }
}
