//! PCI hot-plug in AML: the controller's registers, and a device for each slot (ACPI specification
//! 6.5, section 6.3). Names and order of calls are Cloud Hypervisor's.
//!
//! Does: `PHPR` with `PSCN`, which the event device calls; for the root bridge `PCNT`, which reads
//! what has changed and notifies the slots, and the slots with their `_EJ0`.
//! Does not: plug anything: the registers do (`devices::pci_hotplug`).
//!
//! Invariant: the registers are read and written under one mutex, the segment's number first.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Acquire, AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, If, Local, Method, MethodCall,
    Mutex, Name, NotEqual, Notify, OpRegion, OpRegionSpace, Path, Release, ResourceTemplate,
    Return, ShiftLeft, Store,
};

use super::serialise;
use crate::layout;

/// Slots that devices can be put into: 1 to 31. Slot 0 is the host bridge.
const SLOTS: std::ops::Range<u8> = 1..32;
/// Notification: look at this device again (ACPI section 5.6.6).
const NOTIFY_DEVICE_CHECK: u8 = 1;
/// Notification: this device is to be ejected.
const NOTIFY_EJECT_REQUEST: u8 = 3;
/// Wait for the mutex for as long as it takes.
const FOREVER: u16 = 0xFFFF;

const LOCK: &str = "\\_SB_.PHPR.BLCK";

fn path(path: &str) -> Path {
    Path::new(path)
}

fn slot_name(slot: u8) -> String {
    format!("S{slot:03}")
}

/// Objects that are in the tables as they are.
struct Bytes(Vec<u8>);

impl Aml for Bytes {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The controller.
pub(super) fn controller() -> Vec<u8> {
    let start = layout::PCI_HOTPLUG_START as u32;
    let last = start + layout::PCI_HOTPLUG_LENGTH as u32 - 1;
    let register = |name: &[u8; 4]| FieldEntry::Named(*name, 32);
    serialise(&Device::new(
        path("_SB_.PHPR"),
        vec![
            &Name::new(path("_HID"), &EISAName::new("PNP0A06")),
            &Name::new(path("_UID"), &"PCI Hotplug Controller"),
            // Present, decoding its resources and functioning; not for a user to see.
            &Name::new(path("_STA"), &0x0Bu8),
            &Mutex::new(path("BLCK"), 0),
            &Name::new(
                path("_CRS"),
                &ResourceTemplate::new(vec![&AddressSpace::<u32>::new_memory(
                    AddressSpaceCacheable::NotCacheable,
                    true,
                    start,
                    last,
                    None,
                )]),
            ),
            &OpRegion::new(
                path("PCST"),
                OpRegionSpace::SystemMemory,
                &start,
                &(layout::PCI_HOTPLUG_LENGTH as u32),
            ),
            &Field::new(
                path("PCST"),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![
                    register(b"PCIU"),
                    register(b"PCID"),
                    register(b"B0EJ"),
                    register(b"PSEG"),
                ],
            ),
            // Ejects: the slot's number, the segment's.
            &Method::new(
                path("PCEJ"),
                2,
                true,
                vec![
                    &Acquire::new(path("BLCK"), FOREVER),
                    &Store::new(&path("PSEG"), &Arg(1)),
                    &ShiftLeft::new(&path("B0EJ"), &1u8, &Arg(0)),
                    &Release::new(path("BLCK")),
                    &Return::new(&0u8),
                ],
            ),
            &Method::new(
                path("PSCN"),
                0,
                true,
                vec![&MethodCall::new(path("\\_SB_.PC00.PCNT"), vec![])],
            ),
        ],
    ))
}

/// What the root bridge has: its slots, and the method that notifies them.
pub(super) fn slots() -> impl Aml {
    let mut bytes: Vec<u8> = SLOTS.flat_map(slot).collect();
    bytes.extend(serialise(&Method::new(
        path("PCNT"),
        0,
        true,
        vec![
            &Acquire::new(path(LOCK), FOREVER),
            &Store::new(&path("\\_SB_.PHPR.PSEG"), &path("_SEG")),
            &MethodCall::new(
                path("DVNT"),
                vec![&path("\\_SB_.PHPR.PCIU"), &NOTIFY_DEVICE_CHECK],
            ),
            &MethodCall::new(
                path("DVNT"),
                vec![&path("\\_SB_.PHPR.PCID"), &NOTIFY_EJECT_REQUEST],
            ),
            &Release::new(path(LOCK)),
        ],
    )));
    // Notifies: which slots, of what.
    let notify: Vec<u8> = SLOTS
        .flat_map(|slot| {
            serialise(&If::new(
                &NotEqual::new(&Bytes(masked(slot)), &0u8),
                vec![&Notify::new(&path(&slot_name(slot)), &Arg(1))],
            ))
        })
        .collect();
    bytes.extend(serialise(&Method::new(
        path("DVNT"),
        2,
        true,
        vec![&Bytes(notify)],
    )));
    Bytes(bytes)
}

/// The slot's bit of the first argument, also in a local variable.
fn masked(slot: u8) -> Vec<u8> {
    serialise(&And::new(&Local(0), &Arg(0), &(1u32 << slot)))
}

fn slot(slot: u8) -> Vec<u8> {
    serialise(&Device::new(
        path(&slot_name(slot)),
        vec![
            &Name::new(path("_SUN"), &slot),
            &Name::new(path("_ADR"), &(u32::from(slot) << 16)),
            &Method::new(
                path("_EJ0"),
                1,
                true,
                vec![&MethodCall::new(
                    path("\\_SB_.PHPR.PCEJ"),
                    vec![&path("_SUN"), &path("_SEG")],
                )],
            ),
        ],
    ))
}
