//! Digests as the log has them, and what two sides must share to compare them.
//!
//! Does: name the machine's components for `ft`, and the semantics of this build. Does not: hash;
//! `machine` does.
//!
//! Invariant: the same machine gives the same digest on every host.

use ft::identity::Semantics;
use ft::log::ComponentDigest;
use machine::{COMPONENTS, Digest, Profile, STATE_VERSION};

/// Raised with every change of what a machine does or of how its state is written that
/// `STATE_VERSION` does not tell: a log or a peer of another number is refused.
const SEMANTICS: u64 = 2;

/// What this build's machines with a CPU of that model do.
pub fn semantics(profile: Profile) -> Semantics {
    Semantics {
        engine: "software".to_owned(),
        cpu_model: profile.model_name().to_owned(),
        number: SEMANTICS << 32 | u64::from(STATE_VERSION),
    }
}

/// Every machine that this build can be, the highest model first.
pub fn offered() -> Vec<Semantics> {
    Profile::ALL.into_iter().rev().map(semantics).collect()
}

/// The digest, component by component.
pub fn components(digest: &Digest) -> Vec<ComponentDigest> {
    let pairs = COMPONENTS.iter().zip(digest.components);
    pairs
        .map(|(name, value)| ComponentDigest {
            name: (*name).to_owned(),
            value,
        })
        .collect()
}

/// The digest in one number, as `--replay` prints it.
pub fn in_one(components: &[ComponentDigest]) -> String {
    let bytes: Vec<u8> = components
        .iter()
        .flat_map(|component| component.value.to_le_bytes())
        .collect();
    format!("{:016x}", ft::log::hash_of(&bytes))
}
