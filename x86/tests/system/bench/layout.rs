//! Where everything lies, and the modes a program can start in.

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use memory::GuestRam;
use x86::{CpuState, Profile};

use super::{Bench, Recorder};

/// Bytes of RAM.
pub const RAM: u64 = 4 << 20;
/// The root of the page tables; the others follow.
pub const ROOT: u64 = 0x1000;
/// The interrupt descriptor table.
pub const IDT: u64 = 0x7000;
/// The global descriptor table.
pub const GDT: u64 = 0x8000;
/// The task-state segment.
pub const TSS: u64 = 0x9000;
/// Bytes of the task-state segment, I/O permission bitmap included.
pub const TSS_BYTES: u64 = 0x100;
/// Handlers of the vectors, [`HANDLER_BYTES`] each.
pub const HANDLERS: u64 = 0xa000;
/// Bytes of a handler.
pub const HANDLER_BYTES: u64 = 64;
/// Supervisor code.
pub const CODE: u64 = 0x1_0000;
/// Top of the supervisor stack.
pub const STACK: u64 = 0x2_0000;
/// Supervisor data.
pub const DATA: u64 = 0x3_0000;
/// Top of the stack that privilege changes switch to (RSP0, ESP0).
pub const STACK0: u64 = 0x4_0000;
/// Top of the stack of IST 1.
pub const IST1: u64 = 0x5_0000;
/// Page tables that tests add lie from here on.
const MORE_TABLES: u64 = 0x10_0000;
/// Pages from here on are user pages.
pub const USER: u64 = 0x20_0000;
/// User code.
pub const USER_CODE: u64 = 0x20_0000;
/// Top of the user stack.
pub const USER_STACK: u64 = 0x22_0000;
/// User data.
pub const USER_DATA: u64 = 0x23_0000;

/// Selector of supervisor code of the mode's own size.
pub const KERNEL_CS: u16 = 0x08;
/// Selector of supervisor data.
pub const KERNEL_DS: u16 = 0x10;
/// Selector of 32-bit user code.
pub const USER_CS32: u16 = 0x1b;
/// Selector of user data.
pub const USER_DS: u16 = 0x23;
/// Selector of 64-bit user code.
pub const USER_CS: u16 = 0x2b;
/// Selector of 32-bit supervisor code.
pub const KERNEL_CS32: u16 = 0x30;
/// Selector of 16-bit supervisor code.
pub const KERNEL_CS16: u16 = 0x38;
/// Selector of 16-bit supervisor data.
pub const KERNEL_DS16: u16 = 0x40;
/// Selector of the task-state segment (16 bytes).
pub const TASK: u16 = 0x50;
/// First selector that tests may use.
pub const SPARE: u16 = 0x60;

/// Rights of 64-bit code at level 0.
pub const CODE64: u16 = 0xa09b;
/// Rights of 32-bit code at level 0.
pub const CODE32: u16 = 0xc09b;
/// Rights of 16-bit code at level 0.
pub const CODE16: u16 = 0x009b;
/// Rights of 32-bit data at level 0.
pub const DATA32: u16 = 0xc093;
/// Rights of 16-bit data at level 0.
pub const DATA16: u16 = 0x0093;
/// Rights: level 3.
pub const DPL3: u16 = 0x60;

/// Numbers of the registers.
pub const RAX: usize = 0;
/// RCX.
pub const RCX: usize = 1;
/// RDX.
pub const RDX: usize = 2;
/// RBX.
pub const RBX: usize = 3;
/// RSP.
pub const RSP: usize = 4;
/// RSI.
pub const RSI: usize = 6;
/// RDI.
pub const RDI: usize = 7;

/// RFLAGS bits.
pub const CF: u64 = 1 << 0;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Trap.
pub const TF: u64 = 1 << 8;
/// Interrupt enable.
pub const IF: u64 = 1 << 9;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check.
pub const AC: u64 = 1 << 18;

/// Page-table bits.
pub const P: u64 = 1 << 0;
/// Writable.
pub const W: u64 = 1 << 1;
/// User.
pub const U: u64 = 1 << 2;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Large page.
pub const PS: u64 = 1 << 7;
/// No execute.
pub const NX: u64 = 1 << 63;

/// CR0: PE, MP, ET, NE, WP.
const CR0_PROTECTED: u64 = 0x1_0033;
/// CR0.PG.
pub const PG: u64 = 1 << 31;
/// CR4.PAE.
pub const PAE: u64 = 1 << 5;

/// Where the handler of a vector lies.
pub fn handler_of(vector: u8) -> u64 {
    HANDLERS + HANDLER_BYTES * u64::from(vector)
}

/// An 8-byte descriptor.
pub fn descriptor(rights: u16, base: u32, limit: u32) -> u64 {
    let (rights, base) = (u64::from(rights), u64::from(base));
    let limit = u64::from(if rights & 0x8000 != 0 {
        limit >> 12
    } else {
        limit
    });
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (rights & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (rights >> 12) << 52
        | base >> 24 << 56
}

impl Bench {
    fn empty() -> Bench {
        let mut ram = GuestRam::new(RAM).expect("RAM can be mapped");
        for vector in 0..=255 {
            ram.write(handler_of(vector), &[0xf4]).expect("RAM");
        }
        let mut state = CpuState::power_up(Profile::V1, [7; 32]);
        state.gpr = [0; 16];
        state.rip = CODE;
        state.gpr[RSP] = STACK;
        Bench {
            ram,
            state,
            bus: Recorder::default(),
            events: Vec::new(),
            last: 20_000,
            next_table: MORE_TABLES,
        }
    }

    /// Sets a descriptor of the GDT.
    pub fn describe(&mut self, selector: u16, rights: u16, base: u32, limit: u32) {
        let value = descriptor(rights, base, limit);
        self.write64(GDT + u64::from(selector & !7), value);
    }

    /// Loads a segment register (slot) of the start state.
    pub fn segment(&mut self, slot: usize, selector: u16, rights: u16, base: u64, limit: u32) {
        let segment = &mut self.state.segments[slot];
        segment.selector = selector;
        segment.rights = rights;
        segment.base = base;
        segment.limit = limit;
    }

    fn tables(&mut self, native_code: u16) {
        let flat = u32::MAX;
        self.describe(KERNEL_CS, native_code, 0, flat);
        self.describe(KERNEL_DS, DATA32, 0, flat);
        self.describe(USER_CS32, CODE32 | DPL3, 0, flat);
        self.describe(USER_DS, DATA32 | DPL3, 0, flat);
        self.describe(USER_CS, native_code | DPL3, 0, flat);
        self.describe(KERNEL_CS32, CODE32, 0, flat);
        self.describe(KERNEL_CS16, CODE16, 0, 0xffff);
        self.describe(KERNEL_DS16, DATA16, 0, 0xffff);
        self.describe(TASK, 0x8b, TSS as u32, TSS_BYTES as u32 - 1);
        self.state.gdtr.base = GDT;
        self.state.gdtr.limit = 0xfff;
        self.state.idtr.base = IDT;
        self.state.tr.selector = TASK;
        self.state.tr.rights = 0x8b;
        self.state.tr.base = TSS;
        self.state.tr.limit = TSS_BYTES as u32 - 1;
        self.segment(1, KERNEL_CS, native_code, 0, flat);
        for slot in [0, 2, 3, 4, 5] {
            self.segment(slot, KERNEL_DS, DATA32, 0, flat);
        }
    }

    /// 64-bit mode at level 0. The first 2 MiB are supervisor pages, the next user pages, all of
    /// 4 KiB, writable and executable, linear = physical.
    pub fn long(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
        let mut bench = Bench::empty();
        bench.tables(CODE64);
        bench.state.idtr.limit = 0xfff;
        for vector in 0..=255 {
            bench.gate64(vector, 0x8e, 0);
        }
        bench.write64(TSS + 4, STACK0);
        bench.write64(TSS + 36, IST1);
        bench.write16(TSS + 102, 0xffff);
        bench.state.cr0 = CR0_PROTECTED | PG;
        bench.state.cr4 = PAE | 1 << 7 | 1 << 9 | 1 << 10;
        bench.state.cr3 = ROOT;
        bench.state.msr.efer = 0xd01;
        for page in 0..RAM / 4096 {
            let user = if page * 4096 >= USER { U } else { 0 };
            bench.map(page * 4096, (page * 4096) | P | W | user);
        }
        bench.code(64, CODE, program);
        bench
    }

    /// As [`Bench::long`], but at level 3 in 64-bit mode, with interrupts on.
    pub fn long_user(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
        let mut bench = Bench::long(|_| Ok(()));
        bench.code(64, USER_CODE, program);
        bench.enter_user(USER_CS, CODE64 | DPL3);
        bench
    }

    /// As [`Bench::long`], but in compatibility mode at level 0.
    pub fn compatible(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
        let mut bench = Bench::long(|_| Ok(()));
        bench.code(32, CODE, program);
        bench.segment(1, KERNEL_CS32, CODE32, 0, u32::MAX);
        bench
    }

    fn enter_user(&mut self, selector: u16, code: u16) {
        self.segment(1, selector, code, 0, u32::MAX);
        for slot in [0, 2, 3, 4, 5] {
            self.segment(slot, USER_DS, DATA32 | DPL3, 0, u32::MAX);
        }
        self.state.rip = USER_CODE;
        self.state.gpr[RSP] = USER_STACK;
        self.state.rflags |= IF;
    }

    /// A 64-bit gate: `rights` is its type, level and P.
    pub fn gate64(&mut self, vector: u8, rights: u8, ist: u8) {
        let offset = handler_of(vector);
        let low = (offset & 0xffff)
            | u64::from(KERNEL_CS) << 16
            | u64::from(ist) << 32
            | u64::from(rights) << 40
            | (offset >> 16 & 0xffff) << 48;
        self.write64(IDT + 16 * u64::from(vector), low);
        self.write64(IDT + 16 * u64::from(vector) + 8, offset >> 32);
    }

    /// Flat 32-bit protected mode at level 0, without paging.
    pub fn protected(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
        let mut bench = Bench::empty();
        bench.tables(CODE32);
        bench.state.idtr.limit = 0x7ff;
        for vector in 0..=255 {
            bench.gate32(vector, 0x8e);
        }
        bench.write32(TSS + 4, STACK0 as u32);
        bench.write16(TSS + 8, KERNEL_DS);
        bench.write16(TSS + 102, 0xffff);
        bench.state.cr0 = CR0_PROTECTED;
        bench.state.cr4 = 1 << 9 | 1 << 10;
        bench.code(32, CODE, program);
        bench
    }

    /// As [`Bench::protected`], at level 3.
    pub fn protected_user(
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Bench {
        let mut bench = Bench::protected(|_| Ok(()));
        bench.code(32, USER_CODE, program);
        bench.enter_user(USER_CS, CODE32 | DPL3);
        bench
    }

    /// A gate of protected mode to the handler of a vector.
    pub fn gate32(&mut self, vector: u8, rights: u8) {
        let offset = handler_of(vector);
        let value = (offset & 0xffff)
            | u64::from(KERNEL_CS) << 16
            | u64::from(rights) << 40
            | (offset >> 16 & 0xffff) << 48;
        self.write64(IDT + 8 * u64::from(vector), value);
    }

    /// Real mode, CS = CODE / 16 and IP = 0; other segments 0.
    pub fn real(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Bench {
        let mut bench = Bench::empty();
        for vector in 0..=255u8 {
            bench.write32(
                4 * u64::from(vector),
                ((HANDLERS as u32) << 12) | (u32::from(vector) * 64),
            );
        }
        bench.state.cr0 = 0x10;
        bench.state.rip = 0;
        bench.state.gpr[RSP] = 0xf000;
        bench.segment(1, (CODE >> 4) as u16, CODE16, CODE, 0xffff);
        bench.state.gdtr.base = GDT;
        bench.state.gdtr.limit = 0xfff;
        let bytes = super::assemble(16, 0, program);
        bench.write(CODE, &bytes);
        bench
    }

    /// 32-bit paging over [`Bench::protected`] with the rights of [`Bench::long`]; `PSE` is off.
    pub fn page_32(&mut self) {
        for table in 0..RAM >> 22 {
            let at = ROOT + 0x1000 * (table + 1);
            self.write32(ROOT + 4 * table, at as u32 | 7);
            for page in 0..1024 {
                let address = table << 22 | page << 12;
                let user = if address >= USER { U } else { 0 };
                self.write32(at + 4 * page, (address | P | W | user) as u32);
            }
        }
        self.state.cr3 = ROOT;
        self.state.cr0 |= PG;
    }

    /// PAE paging over [`Bench::protected`] with the rights of [`Bench::long`].
    pub fn page_pae(&mut self) {
        self.write64(ROOT, (ROOT + 0x1000) | P);
        for table in 0..RAM >> 21 {
            let at = ROOT + 0x1000 * (table + 2);
            self.write64(ROOT + 0x1000 + 8 * table, at | 7);
            for page in 0..512 {
                let address = table << 21 | page << 12;
                let user = if address >= USER { U } else { 0 };
                self.write64(at + 8 * page, address | P | W | user);
            }
        }
        self.state.pdptes[0] = (ROOT + 0x1000) | P;
        self.state.cr3 = ROOT;
        self.state.cr4 |= PAE;
        self.state.cr0 |= PG;
    }

    /// Maps the 4 KiB page at `linear` (4-level paging): sets its entry. Upper entries grant all.
    pub fn map(&mut self, linear: u64, entry: u64) {
        let at = self.entry_address(linear, 12);
        self.write64(at, entry);
    }

    /// Where the entry of `linear` lies whose page would have `1 << shift` bytes; makes the tables
    /// above it.
    pub fn entry_address(&mut self, linear: u64, shift: u32) -> u64 {
        let mut table = ROOT;
        let mut level = 39;
        while level > shift {
            let at = table + (linear >> level & 511) * 8;
            if self.read64(at) & P == 0 {
                let fresh = self.next_table;
                self.next_table += 0x1000;
                self.write64(at, fresh | P | W | U);
            }
            table = self.read64(at) & 0x3fff_ffff_f000;
            level -= 9;
        }
        table + (linear >> shift & 511) * 8
    }
}
