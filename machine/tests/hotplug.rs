//! Devices that are plugged in and ejected, as the guest's firmware methods see it.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod tiny;

use iced_x86::code_asm::*;
use machine::{
    DeviceSpec, Event, Input, Machine, MachineState, Outcome, Output, Position, Request, block, net,
};

const UP: u32 = 0xF800_0000;
const DOWN: u32 = UP + 4;
const EJECT: u32 = UP + 8;
/// Where the guest notes what it has read.
const NOTES: u64 = 0x20_0000;

/// Reads the controller's registers and the event register for ever, notes every bit, and ejects
/// what it is asked to give up.
fn kernel() -> Vec<u8> {
    let assemble = || -> Result<Vec<u8>, iced_x86::IcedError> {
        let mut a = CodeAssembler::new(32)?;
        let mut again = a.create_label();
        a.mov(edi, NOTES as u32)?;
        a.set_label(&mut again)?;
        a.mov(dx, 0x604)?;
        a.in_(al, dx)?;
        a.or(byte_ptr(edi), al)?;
        a.mov(eax, dword_ptr(UP))?;
        a.or(dword_ptr(edi + 4), eax)?;
        a.mov(eax, dword_ptr(DOWN))?;
        a.or(dword_ptr(edi + 8), eax)?;
        a.mov(dword_ptr(EJECT), eax)?;
        a.jmp(again)?;
        a.assemble(tiny::LOAD)
    };
    assemble().expect("the program assembles")
}

fn card() -> DeviceSpec {
    DeviceSpec::Net(net::NetSpec {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: None,
        checksums: true,
        segments: true,
        fragments: true,
        pairs: 1,
        queue_size: 256,
    })
}

fn plug(machine: &mut Machine, device: u8, spec: DeviceSpec) {
    let config = Vec::new();
    machine.apply(&Input::Plug {
        device,
        spec,
        config,
    });
}

fn run(machine: &mut Machine) {
    let target = Position(machine.position().0 + 100);
    assert!(tiny::run_to(machine, target));
}

fn note(machine: &Machine, index: u64) -> u32 {
    machine.ram().read_u64(NOTES + 4 * index).unwrap() as u32
}

/// Another machine in the same state, which must behave the same.
fn copy(machine: &Machine) -> Machine {
    let state = MachineState::decode(&machine.save().encode()).unwrap();
    let mut ram = machine::GuestRam::new(machine.ram().size()).unwrap();
    for page in 0..machine.ram().pages() {
        let address = ram.page_address(page);
        ram.write(address, machine.ram().page(page)).unwrap();
    }
    ram.replaced();
    Machine::restore(state, ram, tiny::INTERPRETER).unwrap()
}

fn detached(machine: &mut Machine) -> Vec<u8> {
    let outputs = machine.take_outputs().into_iter();
    outputs
        .filter_map(|output| match output {
            Output::Device { submission, .. } if submission.request == Request::Detach => {
                Some(submission.device)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn the_guest_learns_of_a_device_and_ejects_it() {
    let mut machine = tiny::machine(&kernel());
    run(&mut machine);
    plug(&mut machine, 5, card());
    plug(&mut machine, 2, card());
    assert_eq!(machine.devices().collect::<Vec<_>>(), [2, 5]);
    run(&mut machine);
    assert_eq!(note(&machine, 0) & 0xFF, 4, "the event register");
    assert_eq!(note(&machine, 1), 1 << 5 | 1 << 2);
    let before = machine.digest();
    machine.apply(&Input::Unplug { device: 5 });
    assert_ne!(machine.digest(), before);
    assert_eq!(machine.leaving_devices().collect::<Vec<_>>(), [5]);
    // A copy that is made in between goes the same way.
    let mut copy = copy(&machine);
    for machine in [&mut machine, &mut copy] {
        run(machine);
        assert_eq!(note(machine, 2), 1 << 5);
        assert_eq!(detached(machine), [5]);
        assert_eq!(machine.devices().collect::<Vec<_>>(), [2]);
        plug(machine, 5, card());
        run(machine);
    }
    assert_eq!(machine.clone_digest(), copy.clone_digest());
}

#[test]
fn what_cannot_be_plugged_changes_nothing() {
    let mut machine = tiny::machine(&kernel());
    plug(&mut machine, 3, card());
    let state = machine.save();
    for device in [0, 3, 32, 255] {
        plug(&mut machine, device, card());
    }
    plug(&mut machine, 4, DeviceSpec::Rng);
    machine.apply(&Input::Unplug { device: 4 });
    assert_eq!(machine.save(), state);
}

#[test]
fn a_reset_takes_out_what_was_to_leave() {
    let mut machine = tiny::machine(&kernel());
    plug(&mut machine, 3, card());
    plug(&mut machine, 4, card());
    machine.apply(&Input::Unplug { device: 4 });
    machine.apply(&Input::Reset);
    let target = Position(machine.position().0 + 1);
    assert!(tiny::run_to(&mut machine, target));
    assert_eq!(machine.devices().collect::<Vec<_>>(), [3]);
    assert_eq!(detached(&mut machine), [4]);
    run(&mut machine);
    assert_eq!(note(&machine, 1), 0, "the guest finds it by itself");
}

#[test]
fn a_disk_without_requests_needs_no_completion() {
    let mut machine = tiny::machine(&kernel());
    let spec = block::BlockSpec {
        sectors: 8,
        read_only: true,
        serial: [0; 20],
        logical_block: 512,
        physical_block: 512,
        discards: false,
        queues: 1,
        queue_size: 16,
    };
    plug(&mut machine, 31, DeviceSpec::Block(spec));
    machine.apply(&Input::Unplug { device: 31 });
    run(&mut machine);
    assert_eq!(detached(&mut machine), [31]);
    // What comes late for it is for nobody.
    let (id, outcome) = (0, Outcome::Done);
    let event = Event::Completed { id, outcome };
    machine.apply(&Input::Device { device: 31, event });
    assert!(machine.take_outputs().is_empty());
}
