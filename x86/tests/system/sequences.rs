//! Random sequences of instructions in a loop: every engine must agree at every step, whichever
//! instruction consumes the flags of which other, and wherever one of them faults.
//!
//! Memory operands go through three pointers that move each round: through plain data, over page
//! ends into a page that is not there, and through the page of the code itself.

use x86::Profile;

use crate::bench::*;

/// Programs that are tried.
const PROGRAMS: u64 = 24;
/// Rounds of a program's loop, unless something faults.
const ROUNDS: u32 = 50;
/// Instructions in the loop.
const LENGTH: u64 = 24;

/// Registers that instructions may change: not the stack pointer, the pointers and the counter.
const FREE: [u8; 11] = [0, 1, 2, 3, 5, 6, 8, 11, 12, 14, 15];
/// Registers that point at memory.
const POINTERS: [u8; 3] = [7, 9, 13];
/// The loop's counter, which also serves as an index.
const COUNTER: u8 = 10;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A family of encodings: opcodes `first..=last` (the second byte after 0F, if `escaped`), ModRM.
#[derive(Clone, Copy)]
struct Form {
    prefixes: &'static [u8],
    escaped: bool,
    first: u8,
    last: u8,
    /// Values of ModRM.reg; empty for a register.
    digits: &'static [u8],
    /// Bytes of an immediate; 4 stands for the operand's size.
    immediate: u8,
    /// Only memory operands, or only registers.
    only: Option<bool>,
}

const fn form(escaped: bool, first: u8, last: u8) -> Form {
    Form {
        prefixes: &[0],
        escaped,
        first,
        last,
        digits: &[],
        immediate: 0,
        only: None,
    }
}

const fn with(form: Form, digits: &'static [u8], immediate: u8) -> Form {
    Form {
        digits,
        immediate,
        ..form
    }
}

/// SSE arithmetic: no prefix, 66, F2, F3.
const fn sse(first: u8, last: u8) -> Form {
    Form {
        prefixes: &[0, 0x66, 0xf2, 0xf3],
        ..form(true, first, last)
    }
}

/// SSE2 integers.
const fn lanes(first: u8, last: u8) -> Form {
    Form {
        prefixes: &[0x66],
        ..form(true, first, last)
    }
}

#[rustfmt::skip]
const FORMS: &[Form] = &[
    form(false, 0x00, 0x03), form(false, 0x08, 0x0b), form(false, 0x10, 0x13), form(false, 0x18, 0x1b),
    form(false, 0x20, 0x23), form(false, 0x28, 0x2b), form(false, 0x30, 0x33), form(false, 0x38, 0x3b),
    form(false, 0x84, 0x8b), form(false, 0x84, 0x8b), form(false, 0x88, 0x8b),
    with(form(false, 0x80, 0x80), &[0, 1, 2, 3, 4, 5, 6, 7], 1),
    with(form(false, 0x81, 0x81), &[0, 1, 2, 3, 4, 5, 6, 7], 4),
    with(form(false, 0x83, 0x83), &[0, 1, 2, 3, 4, 5, 6, 7], 1),
    with(form(false, 0xc0, 0xc1), &[0, 1, 2, 3, 4, 5, 7], 1),
    with(form(false, 0xd0, 0xd3), &[0, 1, 2, 3, 4, 5, 7], 0),
    with(form(false, 0xf7, 0xf7), &[2, 3, 4, 5, 4, 5], 0), with(form(false, 0xf6, 0xf6), &[2, 3, 4, 5], 0),
    with(form(false, 0xfe, 0xff), &[0, 1], 0), with(form(false, 0xc7, 0xc7), &[0], 4),
    with(form(false, 0xff, 0xff), &[6], 0), with(form(false, 0x69, 0x69), &[], 4),
    with(form(false, 0x6b, 0x6b), &[], 1), form(false, 0x63, 0x63),
    Form { only: Some(true), ..form(false, 0x8d, 0x8d) },
    form(true, 0x40, 0x4f), with(form(true, 0x90, 0x9f), &[0], 0), form(true, 0xaf, 0xaf),
    form(true, 0xa3, 0xa3), form(true, 0xab, 0xab), with(form(true, 0xba, 0xba), &[4, 5, 6, 7], 1),
    with(form(true, 0xa4, 0xa4), &[], 1), form(true, 0xa5, 0xa5), form(true, 0xbc, 0xbd),
    form(true, 0xb0, 0xb1), form(true, 0xc0, 0xc1), form(true, 0xb6, 0xb7), form(true, 0xbe, 0xbf),
    sse(0x58, 0x59), sse(0x5c, 0x5f), sse(0x51, 0x51), sse(0x10, 0x11), form(true, 0x28, 0x29),
    lanes(0x6f, 0x6f), lanes(0x7f, 0x7f), lanes(0xfc, 0xfe), lanes(0xf8, 0xfb), lanes(0xdb, 0xdb),
    lanes(0xef, 0xef), lanes(0x60, 0x6d), lanes(0x74, 0x76), lanes(0xd7, 0xd7), lanes(0x6e, 0x6e),
    lanes(0x2e, 0x2f), form(true, 0x2e, 0x2f), with(lanes(0x70, 0x70), &[], 1),
    Form { prefixes: &[0xf2, 0xf3], ..form(true, 0x2a, 0x2a) },
    Form { prefixes: &[0xf2, 0xf3], ..form(true, 0x2c, 0x2d) },
    // POPCNT, TZCNT, LZCNT.
    Form { prefixes: &[0xf3], ..form(true, 0xb8, 0xb8) },
    Form { prefixes: &[0xf3], ..form(true, 0xbc, 0xbd) },
    with(form(true, 0xac, 0xac), &[], 1),
];

/// A family of VEX encodings.
#[derive(Clone, Copy)]
struct Vex {
    map: u8,
    prefix: u8,
    first: u8,
    last: u8,
    /// Values of ModRM.reg; empty for a register.
    digits: &'static [u8],
    immediate: bool,
    /// VEX.L may be 1: YMM registers.
    long: bool,
    /// General registers: VEX.W is the operands' size, else it is 0.
    general: bool,
    /// There is no first source: VEX.vvvv is 1111b.
    single: bool,
}

const fn vex(map: u8, prefix: u8, first: u8, last: u8) -> Vex {
    Vex {
        map,
        prefix,
        first,
        last,
        digits: &[],
        immediate: false,
        long: true,
        general: false,
        single: false,
    }
}

const fn alone(form: Vex) -> Vex {
    Vex {
        single: true,
        ..form
    }
}

const fn bits(prefix: u8, opcode: u8) -> Vex {
    Vex {
        general: true,
        long: false,
        ..vex(2, prefix, opcode, opcode)
    }
}

#[rustfmt::skip]
const VEX_FORMS: &[Vex] = &[
    vex(1, 0, 0x58, 0x59), vex(1, 1, 0x5c, 0x5f), vex(1, 0, 0x54, 0x57), vex(1, 0, 0xc6, 0xc6),
    Vex { long: false, ..vex(1, 3, 0x58, 0x59) }, Vex { long: false, ..vex(1, 2, 0x5c, 0x5f) },
    alone(vex(1, 0, 0x10, 0x11)), alone(vex(1, 0, 0x28, 0x29)), alone(vex(1, 2, 0x6f, 0x6f)),
    alone(vex(1, 2, 0x7f, 0x7f)), alone(vex(1, 1, 0x6f, 0x6f)), alone(vex(1, 1, 0x7f, 0x7f)),
    vex(1, 1, 0xfc, 0xfe), vex(1, 1, 0xf8, 0xfb), vex(1, 1, 0xdb, 0xdb), vex(1, 1, 0xef, 0xef),
    vex(1, 1, 0x74, 0x76), vex(1, 1, 0x60, 0x6d), alone(vex(1, 1, 0xd7, 0xd7)),
    vex(2, 1, 0x00, 0x00), vex(2, 1, 0x38, 0x40), alone(vex(2, 1, 0x17, 0x17)),
    alone(vex(2, 1, 0x58, 0x58)), alone(vex(2, 1, 0x78, 0x79)), alone(vex(2, 1, 0x30, 0x35)),
    Vex { immediate: true, ..vex(3, 1, 0x0e, 0x0f) },
    Vex { immediate: true, ..alone(vex(1, 1, 0x70, 0x70)) },
    bits(0, 0xf2), bits(0, 0xf5), bits(0, 0xf7), bits(1, 0xf7), bits(2, 0xf7), bits(3, 0xf7),
    bits(2, 0xf5), bits(3, 0xf5), bits(3, 0xf6),
    Vex { digits: &[1, 2, 3], ..bits(0, 0xf3) },
    Vex { map: 3, immediate: true, ..alone(bits(3, 0xf0)) },
];

/// One instruction of a VEX form, on the same registers as the others.
fn vex_instruction(random: &mut Random, code: &mut Vec<u8>) {
    if random.chance(5) {
        // VZEROUPPER
        code.extend([0xc5, 0xf8, 0x77]);
        return;
    }
    let form = random.pick(VEX_FORMS);
    let opcode = form.first + random.below(u64::from(form.last - form.first) + 1) as u8;
    // VPMOVMSKB has no memory operand.
    let memory = random.chance(40) && !(form.map == 1 && opcode == 0xd7);
    let reg = match form.digits {
        [] => random.pick(&FREE),
        digits => random.pick(digits),
    };
    let rm = random.pick(if memory { &POINTERS[..] } else { &FREE[..] });
    let other = if form.single { 0 } else { random.pick(&FREE) };
    let wide = form.general && random.chance(50);
    let long = form.long && random.chance(60);
    let extension = (!reg >> 3 & 1) << 7 | 1 << 6 | (!rm >> 3 & 1) << 5;
    code.extend([0xc4, extension | form.map]);
    code.push(u8::from(wide) << 7 | (!other & 15) << 3 | u8::from(long) << 2 | form.prefix);
    code.push(opcode);
    let reg = (reg & 7) << 3;
    if memory {
        code.push(0x40 | reg | (rm & 7));
        // Often aligned.
        let shift = random.pick(&[0, 5]);
        code.push(((random.below(128) >> shift) << shift) as u8);
    } else {
        code.push(0xc0 | reg | (rm & 7));
    }
    if form.immediate {
        code.push(random.next() as u8);
    }
}

/// One instruction of a form.
fn instruction(random: &mut Random, code: &mut Vec<u8>) {
    let form = random.pick(FORMS);
    let prefix = random.pick(form.prefixes);
    let vector = form.prefixes != [0] || (form.escaped && matches!(form.first, 0x28 | 0x2e));
    let narrow = !vector && random.chance(10);
    let memory = form.only.unwrap_or_else(|| random.chance(40));
    let opcode = form.first + random.below(u64::from(form.last - form.first) + 1) as u8;
    let escaped_move_mask = form.escaped && opcode == 0xd7;
    let memory = memory && !escaped_move_mask;
    let wide = random.chance(45) && !narrow;
    if narrow {
        code.push(0x66);
    }
    if prefix != 0 {
        code.push(prefix);
    }
    let reg = match form.digits {
        [] => random.pick(&FREE),
        digits => random.pick(digits),
    };
    let (rm, sib) = if memory {
        let base = random.pick(&POINTERS);
        (base, random.chance(30))
    } else {
        (random.pick(&FREE), false)
    };
    let rex = 0x40
        | u8::from(wide) << 3
        | (reg >> 3) << 2
        | u8::from(sib) << 1 & (COUNTER >> 3) << 1
        | rm >> 3;
    if rex != 0x40 || random.chance(30) {
        code.push(rex);
    }
    if form.escaped {
        code.push(0x0f);
    }
    code.push(opcode);
    let reg = (reg & 7) << 3;
    if !memory {
        code.push(0xc0 | reg | (rm & 7));
    } else if sib {
        let scale = random.below(3) as u8;
        code.extend([0x44 | reg, scale << 6 | (COUNTER & 7) << 3 | (rm & 7)]);
        code.push(random.below(64) as u8);
    } else {
        code.push(0x40 | reg | (rm & 7));
        // Often aligned for SSE.
        let shift = random.pick(&[0, 4]);
        code.push(((random.below(128) >> shift) << shift) as u8);
    }
    let bytes = match form.immediate {
        4 if narrow => 2,
        // F6 and 81 aside, nothing has both sizes.
        n => n,
    };
    for _ in 0..bytes {
        code.push(random.next() as u8);
    }
}

fn program(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..LENGTH {
        match random.below(20) {
            0 => {
                let register = random.pick(&[0u8, 1, 2, 3, 5, 6]);
                code.push(0x50 | register);
            }
            1 => {
                let register = random.pick(&[0u8, 1, 2, 3, 5, 6]);
                code.push(0x58 | register);
            }
            // PUSHF, flag instructions, CDQ and CQO.
            2 => code.extend(random.pick(&[
                &[0x9c][..],
                &[0xf8],
                &[0xf9],
                &[0xf5],
                &[0x99],
                &[0x48, 0x99],
                &[0x48, 0x98],
                &[0x9f],
            ])),
            // A branch over the next instruction.
            3 | 4 => {
                let mut next = Vec::new();
                instruction(random, &mut next);
                code.extend([0x70 | random.below(16) as u8, next.len() as u8]);
                code.extend(next);
            }
            5..=8 => vex_instruction(random, &mut code),
            _ => instruction(random, &mut code),
        }
    }
    code
}

#[test]
fn engines_agree_on_random_sequences() {
    let seed = std::env::var("X86_SEQUENCES_SEED").map_or(1, |text| {
        text.parse().expect("X86_SEQUENCES_SEED is a number")
    });
    let programs = std::env::var("X86_SEQUENCES").map_or(PROGRAMS, |text| {
        text.parse().expect("X86_SEQUENCES is a number")
    });
    for number in 0..programs {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + number) << 20);
        random.next();
        let body = program(&mut random);
        println!("program {number} of seed {seed}: {body:02x?}");
        let steps = [random.below(24), random.below(3) * 16, random.below(12)];
        let mut bench = Bench::long(|a| {
            use iced_x86::code_asm::*;
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.mov(rsp, STACK)?;
            a.add(rdi, steps[0] as i32)?;
            a.add(r9, steps[1] as i32)?;
            a.add(r13, steps[2] as i32)?;
            a.db(&body)?;
            a.dec(r10d)?;
            a.jne(top)?;
            a.hlt()
        });
        // OSFXSR, OSXMMEXCPT and OSXSAVE.
        bench.state.cr4 |= 1 << 9 | 1 << 10 | 1 << 18;
        // In every fourth program there is no AVX, and VEX raises #UD.
        bench.state.profile = Profile::V3;
        bench.state.xcr0 = if number % 4 == 3 { 3 } else { 7 };
        bench.last = 10_000;
        for register in FREE {
            bench.state.gpr[usize::from(register)] = match random.below(3) {
                0 => random.below(300),
                1 => random.next() << 32 | random.next(),
                _ => u64::MAX - random.below(300),
            };
        }
        for register in 0..16 {
            let value = if random.chance(50) {
                u128::from((random.below(1000) as f64 / 7.0).to_bits()) << 64
                    | u128::from((random.below(1000) as f64 / 3.0).to_bits())
            } else {
                u128::from(random.next()) << 80 | u128::from(random.next())
            };
            bench.state.xmm[register] = value;
            bench.state.ymm_high[register] = value.rotate_left(29);
        }
        let page = 0x4000_0000;
        bench.map(page, DATA | P | W);
        bench.map(page + 0x1000, (DATA + 0x5000) | P | W);
        bench.state.gpr[7] = DATA + 16 * random.below(64);
        bench.state.gpr[9] = page + 0x1000 * random.below(2) + 0xa00 + 16 * random.below(16);
        bench.state.gpr[13] = if random.chance(25) {
            CODE + 0x800
        } else {
            DATA + 0x1800
        };
        bench.state.gpr[usize::from(COUNTER)] = u64::from(ROUNDS);
        for offset in (0..0x2000).step_by(8) {
            bench.write64(DATA + offset, random.next());
        }
        bench.run();
    }
}
