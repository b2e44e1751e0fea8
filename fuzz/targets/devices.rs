//! virtio devices: any driver, any host, and any saved state.
//!
//! A device that is saved somewhere and restored must do from there on what the other one does; what
//! it writes to guest RAM is told to the watches; and a state that nobody saved is refused, or does
//! no harm.
#![no_main]

use fuzz::bytes::Bytes;
use fuzz::rig::{self, Act, Rig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes::new(data);
    let spec = rig::spec(&mut bytes);
    let cut = usize::from(bytes.byte());
    let damage: Vec<(u8, u8)> = (0..bytes.byte() % 4)
        .map(|_| (bytes.byte(), bytes.byte()))
        .collect();
    let mut acts = Vec::new();
    while !bytes.is_empty() {
        acts.push(Act::take(&mut bytes));
    }
    let cut = cut % (acts.len() + 1);

    let mut rig = Rig::new(&spec);
    for act in &acts[..cut] {
        rig.act(act);
    }
    let mut others: Vec<Rig> = rig.restored().into_iter().collect();
    let mut damaged = rig.damaged(&damage);
    for act in &acts[cut..] {
        let effects = rig.act(act);
        for other in &mut others {
            assert_eq!(effects, other.act(act), "{act:x?}");
        }
        if let Some(damaged) = &mut damaged {
            damaged.act(act);
        }
    }
    others.iter().for_each(|other| rig.assert_same(other));
    rig.assert_watched();
});
