//! Integer lanes against definitions written lane by lane.

use super::{Bench, DATA, Random, code};
use crate::op::CodeSize;

/// The definition for vectors of `n` bytes.
type Definition = fn(n: usize, a: &[u8], b: &[u8]) -> Vec<u8>;

fn bytes(n: usize, a: &[u8], b: &[u8], f: impl Fn(u8, u8) -> u8) -> Vec<u8> {
    (0..n).map(|i| f(a[i], b[i])).collect()
}

fn word(x: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([x[2 * i], x[2 * i + 1]])
}

fn dword(x: &[u8], i: usize) -> u32 {
    u32::from(word(x, 2 * i)) | u32::from(word(x, 2 * i + 1)) << 16
}

fn qword(x: &[u8], i: usize) -> u64 {
    u64::from(dword(x, 2 * i)) | u64::from(dword(x, 2 * i + 1)) << 32
}

fn words(n: usize, a: &[u8], b: &[u8], f: impl Fn(u16, u16) -> u16) -> Vec<u8> {
    (0..n / 2)
        .flat_map(|i| f(word(a, i), word(b, i)).to_le_bytes())
        .collect()
}

fn signed_words(n: usize, a: &[u8], b: &[u8], f: impl Fn(i32, i32) -> i32) -> Vec<u8> {
    words(n, a, b, |x, y| {
        f(i32::from(x as i16), i32::from(y as i16)) as u16
    })
}

fn dwords(n: usize, a: &[u8], b: &[u8], f: impl Fn(u32, u32) -> u32) -> Vec<u8> {
    (0..n / 4)
        .flat_map(|i| f(dword(a, i), dword(b, i)).to_le_bytes())
        .collect()
}

fn qwords(n: usize, a: &[u8], b: &[u8], f: impl Fn(u64, u64) -> u64) -> Vec<u8> {
    (0..n / 8)
        .flat_map(|i| f(qword(a, i), qword(b, i)).to_le_bytes())
        .collect()
}

fn mask<T: From<bool>>(set: bool, ones: T, zeros: T) -> T {
    if set { ones } else { zeros }
}

/// Units of `unit` bytes by turns from both, beginning with byte `from` of each.
fn interleave(n: usize, a: &[u8], b: &[u8], unit: usize, from: usize) -> Vec<u8> {
    (0..n / unit)
        .flat_map(|i| {
            let at = from + i / 2 * unit;
            if i % 2 == 0 {
                a[at..at + unit].to_vec()
            } else {
                b[at..at + unit].to_vec()
            }
        })
        .collect()
}

fn pack_words(n: usize, a: &[u8], b: &[u8], least: i16, most: i16) -> Vec<u8> {
    [a, b]
        .iter()
        .flat_map(|x| (0..n / 2).map(|i| (word(x, i) as i16).clamp(least, most) as u8))
        .collect()
}

fn count(b: &[u8]) -> u64 {
    qword(b, 0)
}

/// Opcode (after 0F), name, definition; all exist for both register files.
const BOTH: &[(u8, &str, Definition)] = &[
    (0xfc, "Paddb", |n, a, b| bytes(n, a, b, u8::wrapping_add)),
    (0xfd, "Paddw", |n, a, b| words(n, a, b, u16::wrapping_add)),
    (0xfe, "Paddd", |n, a, b| dwords(n, a, b, u32::wrapping_add)),
    (0xd4, "Paddq", |n, a, b| qwords(n, a, b, u64::wrapping_add)),
    (0xec, "Paddsb", |n, a, b| {
        bytes(n, a, b, |x, y| (x as i8).saturating_add(y as i8) as u8)
    }),
    (0xed, "Paddsw", |n, a, b| {
        words(n, a, b, |x, y| (x as i16).saturating_add(y as i16) as u16)
    }),
    (0xdc, "Paddusb", |n, a, b| {
        bytes(n, a, b, u8::saturating_add)
    }),
    (0xdd, "Paddusw", |n, a, b| {
        words(n, a, b, u16::saturating_add)
    }),
    (0xf8, "Psubb", |n, a, b| bytes(n, a, b, u8::wrapping_sub)),
    (0xf9, "Psubw", |n, a, b| words(n, a, b, u16::wrapping_sub)),
    (0xfa, "Psubd", |n, a, b| dwords(n, a, b, u32::wrapping_sub)),
    (0xfb, "Psubq", |n, a, b| qwords(n, a, b, u64::wrapping_sub)),
    (0xe8, "Psubsb", |n, a, b| {
        bytes(n, a, b, |x, y| (x as i8).saturating_sub(y as i8) as u8)
    }),
    (0xe9, "Psubsw", |n, a, b| {
        words(n, a, b, |x, y| (x as i16).saturating_sub(y as i16) as u16)
    }),
    (0xd8, "Psubusb", |n, a, b| {
        bytes(n, a, b, u8::saturating_sub)
    }),
    (0xd9, "Psubusw", |n, a, b| {
        words(n, a, b, u16::saturating_sub)
    }),
    (0x74, "Pcmpeqb", |n, a, b| {
        bytes(n, a, b, |x, y| mask(x == y, 0xff, 0))
    }),
    (0x75, "Pcmpeqw", |n, a, b| {
        words(n, a, b, |x, y| mask(x == y, 0xffff, 0))
    }),
    (0x76, "Pcmpeqd", |n, a, b| {
        dwords(n, a, b, |x, y| mask(x == y, u32::MAX, 0))
    }),
    (0x64, "Pcmpgtb", |n, a, b| {
        bytes(n, a, b, |x, y| mask(x as i8 > y as i8, 0xff, 0))
    }),
    (0x65, "Pcmpgtw", |n, a, b| {
        words(n, a, b, |x, y| mask(x as i16 > y as i16, 0xffff, 0))
    }),
    (0x66, "Pcmpgtd", |n, a, b| {
        dwords(n, a, b, |x, y| mask(x as i32 > y as i32, u32::MAX, 0))
    }),
    (0xda, "Pminub", |n, a, b| bytes(n, a, b, u8::min)),
    (0xde, "Pmaxub", |n, a, b| bytes(n, a, b, u8::max)),
    (0xea, "Pminsw", |n, a, b| signed_words(n, a, b, i32::min)),
    (0xee, "Pmaxsw", |n, a, b| signed_words(n, a, b, i32::max)),
    (0xe0, "Pavgb", |n, a, b| {
        bytes(n, a, b, |x, y| {
            (u32::from(x) + u32::from(y)).div_ceil(2) as u8
        })
    }),
    (0xe3, "Pavgw", |n, a, b| {
        words(n, a, b, |x, y| {
            (u32::from(x) + u32::from(y)).div_ceil(2) as u16
        })
    }),
    (0xd5, "Pmullw", |n, a, b| words(n, a, b, u16::wrapping_mul)),
    (0xe5, "Pmulhw", |n, a, b| {
        signed_words(n, a, b, |x, y| (x * y) >> 16)
    }),
    (0xe4, "Pmulhuw", |n, a, b| {
        words(n, a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16)
    }),
    (0xf4, "Pmuludq", |n, a, b| {
        qwords(n, a, b, |x, y| u64::from(x as u32) * u64::from(y as u32))
    }),
    (0xf5, "Pmaddwd", |n, a, b| {
        dwords(n, a, b, |x, y| {
            let part = |shift| i32::from((x >> shift) as i16) * i32::from((y >> shift) as i16);
            part(0).wrapping_add(part(16)) as u32
        })
    }),
    (0xf6, "Psadbw", |n, a, b| {
        qwords(n, a, b, |x, y| {
            let lane = |i: u32| ((x >> (8 * i)) as u8).abs_diff((y >> (8 * i)) as u8);
            (0..8).map(|i| u64::from(lane(i))).sum()
        })
    }),
    (0xdb, "Pand", |n, a, b| bytes(n, a, b, |x, y| x & y)),
    (0xdf, "Pandn", |n, a, b| bytes(n, a, b, |x, y| !x & y)),
    (0xeb, "Por", |n, a, b| bytes(n, a, b, |x, y| x | y)),
    (0xef, "Pxor", |n, a, b| bytes(n, a, b, |x, y| x ^ y)),
    (0x60, "Punpcklbw", |n, a, b| interleave(n, a, b, 1, 0)),
    (0x61, "Punpcklwd", |n, a, b| interleave(n, a, b, 2, 0)),
    (0x62, "Punpckldq", |n, a, b| interleave(n, a, b, 4, 0)),
    (0x68, "Punpckhbw", |n, a, b| interleave(n, a, b, 1, n / 2)),
    (0x69, "Punpckhwd", |n, a, b| interleave(n, a, b, 2, n / 2)),
    (0x6a, "Punpckhdq", |n, a, b| interleave(n, a, b, 4, n / 2)),
    (0x63, "Packsswb", |n, a, b| pack_words(n, a, b, -128, 127)),
    (0x67, "Packuswb", |n, a, b| pack_words(n, a, b, 0, 255)),
    (0x6b, "Packssdw", |n, a, b| {
        [a, b]
            .iter()
            .flat_map(|x| (0..n / 4).map(|i| (dword(x, i) as i32).clamp(-0x8000, 0x7fff) as i16))
            .flat_map(i16::to_le_bytes)
            .collect()
    }),
    (0xf1, "Psllw", |n, a, b| {
        words(
            n,
            a,
            a,
            |x, _| if count(b) > 15 { 0 } else { x << count(b) },
        )
    }),
    (0xf2, "Pslld", |n, a, b| {
        dwords(
            n,
            a,
            a,
            |x, _| if count(b) > 31 { 0 } else { x << count(b) },
        )
    }),
    (0xf3, "Psllq", |n, a, b| {
        qwords(
            n,
            a,
            a,
            |x, _| if count(b) > 63 { 0 } else { x << count(b) },
        )
    }),
    (0xd1, "Psrlw", |n, a, b| {
        words(
            n,
            a,
            a,
            |x, _| if count(b) > 15 { 0 } else { x >> count(b) },
        )
    }),
    (0xd2, "Psrld", |n, a, b| {
        dwords(
            n,
            a,
            a,
            |x, _| if count(b) > 31 { 0 } else { x >> count(b) },
        )
    }),
    (0xd3, "Psrlq", |n, a, b| {
        qwords(
            n,
            a,
            a,
            |x, _| if count(b) > 63 { 0 } else { x >> count(b) },
        )
    }),
    (0xe1, "Psraw", |n, a, b| {
        words(n, a, a, |x, _| (x as i16 >> count(b).min(15)) as u16)
    }),
    (0xe2, "Psrad", |n, a, b| {
        dwords(n, a, a, |x, _| (x as i32 >> count(b).min(31)) as u32)
    }),
];

/// Those of XMM registers alone: prefix (0 for none), opcode, name, definition.
const XMM: &[(u8, u8, &str, Definition)] = &[
    (0x66, 0x6c, "Punpcklqdq", |n, a, b| {
        interleave(n, a, b, 8, 0)
    }),
    (0x66, 0x6d, "Punpckhqdq", |n, a, b| {
        interleave(n, a, b, 8, 8)
    }),
    (0, 0x14, "Unpcklps", |n, a, b| interleave(n, a, b, 4, 0)),
    (0, 0x15, "Unpckhps", |n, a, b| interleave(n, a, b, 4, 8)),
    (0x66, 0x14, "Unpcklpd", |n, a, b| interleave(n, a, b, 8, 0)),
    (0x66, 0x15, "Unpckhpd", |n, a, b| interleave(n, a, b, 8, 8)),
    (0, 0x54, "Andps", |n, a, b| bytes(n, a, b, |x, y| x & y)),
    (0x66, 0x54, "Andpd", |n, a, b| bytes(n, a, b, |x, y| x & y)),
    (0, 0x55, "Andnps", |n, a, b| bytes(n, a, b, |x, y| !x & y)),
    (0x66, 0x55, "Andnpd", |n, a, b| {
        bytes(n, a, b, |x, y| !x & y)
    }),
    (0, 0x56, "Orps", |n, a, b| bytes(n, a, b, |x, y| x | y)),
    (0x66, 0x56, "Orpd", |n, a, b| bytes(n, a, b, |x, y| x | y)),
    (0, 0x57, "Xorps", |n, a, b| bytes(n, a, b, |x, y| x ^ y)),
    (0x66, 0x57, "Xorpd", |n, a, b| bytes(n, a, b, |x, y| x ^ y)),
];

fn encode(prefix: u8, opcode: u8, modrm: u8) -> Vec<u8> {
    let prefix = (prefix != 0).then_some(prefix);
    prefix.into_iter().chain([0x0f, opcode, modrm]).collect()
}

/// The second operand, mostly a sensible count for shifts.
fn second(random: &mut Random, name: &str) -> u128 {
    let vector = random.vector();
    let shifts = name.starts_with("Psl") || name.starts_with("Psr");
    match random.next() % 8 {
        0 if shifts => vector,
        1 if shifts => vector >> 64 << 64 | 1 << 40,
        _ if shifts => vector >> 64 << 64 | u128::from(random.next() % 72),
        _ => vector,
    }
}

fn check_xmm(prefix: u8, opcode: u8, name: &str, definition: Definition) {
    let mut bench = Bench::new();
    let mut random = Random(u64::from(opcode));
    assert!(
        code(&encode(prefix, opcode, 0xd1), CodeSize::Bits64).starts_with(name),
        "{name}"
    );
    for _ in 0..2000 {
        let (a, b) = (random.vector(), second(&mut random, name));
        let wanted = definition(16, &a.to_le_bytes(), &b.to_le_bytes());
        bench.core.xmm[2] = a;
        bench.core.xmm[1] = b;
        bench.run(&encode(prefix, opcode, 0xd1)).expect(name);
        assert_eq!(
            bench.core.xmm[2].to_le_bytes(),
            wanted[..],
            "{name} {a:#x} {b:#x}"
        );
        assert_eq!(bench.core.xmm[1], b);
        bench.core.xmm[2] = a;
        bench.poke(DATA, &b.to_le_bytes());
        bench.run(&encode(prefix, opcode, 0x17)).expect(name);
        assert_eq!(
            bench.core.xmm[2].to_le_bytes(),
            wanted[..],
            "{name} {a:#x} {b:#x} in memory"
        );
    }
}

#[test]
fn xmm_lanes_match_their_definitions() {
    for &(opcode, name, definition) in BOTH {
        check_xmm(0x66, opcode, name, definition);
    }
    for &(prefix, opcode, name, definition) in XMM {
        check_xmm(prefix, opcode, name, definition);
    }
}

#[test]
fn mmx_lanes_match_their_definitions() {
    for &(opcode, name, definition) in BOTH {
        let mut bench = Bench::new();
        let mut random = Random(u64::from(opcode));
        assert!(
            code(&encode(0, opcode, 0xd1), CodeSize::Bits64).starts_with(name),
            "{name}"
        );
        for _ in 0..2000 {
            let (a, b) = (random.vector() as u64, second(&mut random, name) as u64);
            let wanted = definition(8, &a.to_le_bytes(), &b.to_le_bytes());
            bench.core.x87.status = 0x3800;
            bench.core.x87.valid = 0;
            bench.set_mmx(2, a);
            bench.set_mmx(1, b);
            bench.run(&encode(0, opcode, 0xd1)).expect(name);
            assert_eq!(
                bench.mmx(2).to_le_bytes(),
                wanted[..],
                "{name} {a:#x} {b:#x}"
            );
            assert_eq!(bench.core.x87.registers[2].sign_exponent, 0xffff);
            assert_eq!((bench.core.x87.status, bench.core.x87.valid), (0, 0xff));
            bench.set_mmx(2, a);
            bench.poke(DATA, &b.to_le_bytes());
            bench.run(&encode(0, opcode, 0x17)).expect(name);
            assert_eq!(
                bench.mmx(2).to_le_bytes(),
                wanted[..],
                "{name} {a:#x} {b:#x} in memory"
            );
        }
    }
}

#[test]
fn immediate_shifts_match_those_by_registers() {
    // Opcode of the group, extension, opcode of the form with a register.
    let groups: [(u8, u8, u8); 8] = [
        (0x71, 6, 0xf1),
        (0x72, 6, 0xf2),
        (0x73, 6, 0xf3),
        (0x71, 2, 0xd1),
        (0x72, 2, 0xd2),
        (0x73, 2, 0xd3),
        (0x71, 4, 0xe1),
        (0x72, 4, 0xe2),
    ];
    let mut random = Random(1);
    for (group, extension, opcode) in groups {
        for count in 0..=255u8 {
            let a = random.vector();
            let mut bench = Bench::new();
            bench.core.xmm[2] = a;
            bench.core.xmm[3] = a;
            bench.core.xmm[1] = u128::from(count);
            bench.set_mmx(2, a as u64);
            bench.set_mmx(3, a as u64);
            bench.set_mmx(1, u64::from(count));
            let immediate = [0x0f, group, 0xc0 | extension << 3 | 2, count];
            bench
                .run(&[&[0x66][..], &immediate].concat())
                .expect("xmm, imm8");
            bench.run(&immediate).expect("mm, imm8");
            bench.run(&encode(0x66, opcode, 0xd9)).expect("xmm, xmm");
            bench.run(&encode(0, opcode, 0xd9)).expect("mm, mm");
            assert_eq!(
                bench.core.xmm[2], bench.core.xmm[3],
                "{opcode:#x} by {count}"
            );
            assert_eq!(bench.mmx(2), bench.mmx(3), "{opcode:#x} by {count}");
        }
    }
}

#[test]
fn whole_registers_shift_by_bytes() {
    for count in 0..=255u8 {
        let value = Random(u64::from(count)).vector();
        let mut bench = Bench::new();
        bench.core.xmm[2] = value;
        bench.core.xmm[3] = value;
        bench.run(&[0x66, 0x0f, 0x73, 0xfa, count]).expect("pslldq");
        bench.run(&[0x66, 0x0f, 0x73, 0xdb, count]).expect("psrldq");
        let bits = 8 * u32::from(count);
        assert_eq!(bench.core.xmm[2], value.checked_shl(bits).unwrap_or(0));
        assert_eq!(bench.core.xmm[3], value.checked_shr(bits).unwrap_or(0));
    }
}

#[test]
fn shuffles_select_lanes() {
    let mut random = Random(7);
    for selector in 0..=255u8 {
        let (a, b) = (random.vector(), random.vector());
        let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
        let pick = |n: usize| usize::from(selector >> (2 * n) & 3);
        let shuffled = |prefix: u8, opcode: u8| {
            let mut bench = Bench::new();
            bench.core.xmm[2] = a;
            bench.core.xmm[1] = b;
            let mut bytes = encode(prefix, opcode, 0xd1);
            bytes.push(selector);
            bench.run(&bytes).expect("shuffle");
            let from_register = bench.core.xmm[2];
            bench.core.xmm[2] = a;
            bench.poke(DATA, &y);
            let mut bytes = encode(prefix, opcode, 0x17);
            bytes.push(selector);
            bench.run(&bytes).expect("shuffle from memory");
            assert_eq!(bench.core.xmm[2], from_register);
            from_register.to_le_bytes()
        };
        let dwords: Vec<u8> = (0..4)
            .flat_map(|n| dword(&y, pick(n)).to_le_bytes())
            .collect();
        assert_eq!(shuffled(0x66, 0x70), dwords[..], "pshufd");
        let low: Vec<u8> = (0..4)
            .flat_map(|n| word(&y, pick(n)).to_le_bytes())
            .collect();
        let high: Vec<u8> = (0..4)
            .flat_map(|n| word(&y, 4 + pick(n)).to_le_bytes())
            .collect();
        assert_eq!(
            shuffled(0xf2, 0x70),
            [&low, &y[8..]].concat()[..],
            "pshuflw"
        );
        assert_eq!(
            shuffled(0xf3, 0x70),
            [&y[..8], &high].concat()[..],
            "pshufhw"
        );
        let singles: Vec<u8> = [dword(&x, pick(0)), dword(&x, pick(1))]
            .into_iter()
            .chain([dword(&y, pick(2)), dword(&y, pick(3))])
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(shuffled(0, 0xc6), singles[..], "shufps");
        let bit = |n: usize| usize::from(selector >> n & 1);
        let doubles = [
            qword(&x, bit(0)).to_le_bytes(),
            qword(&y, bit(1)).to_le_bytes(),
        ]
        .concat();
        assert_eq!(shuffled(0x66, 0xc6), doubles[..], "shufpd");
        let mut bench = Bench::new();
        bench.set_mmx(1, b as u64);
        bench.run(&[0x0f, 0x70, 0xd1, selector]).expect("pshufw");
        assert_eq!(bench.mmx(2).to_le_bytes(), low[..], "pshufw");
    }
}

#[test]
fn words_go_in_and_out() {
    let mut random = Random(3);
    for selector in 0..=255u8 {
        let (a, general) = (random.vector(), random.next());
        let mut bench = Bench::new();
        let n = u32::from(selector & 7);
        bench.core.xmm[2] = a;
        bench.set_mmx(2, a as u64);
        bench.core.gpr[3] = u64::MAX;
        bench
            .run(&[0x66, 0x0f, 0xc5, 0xda, selector])
            .expect("pextrw");
        assert_eq!(bench.core.gpr[3], u64::from((a >> (16 * n)) as u16));
        bench.run(&[0x0f, 0xc5, 0xda, selector]).expect("pextrw");
        assert_eq!(
            bench.core.gpr[3],
            u64::from((a as u64 >> (16 * (n & 3))) as u16)
        );
        bench.core.gpr[1] = general;
        let insert = |n: u32| a & !(0xffff << (16 * n)) | u128::from(general as u16) << (16 * n);
        bench
            .run(&[0x66, 0x0f, 0xc4, 0xd1, selector])
            .expect("pinsrw");
        assert_eq!(bench.core.xmm[2], insert(n));
        bench.run(&[0x0f, 0xc4, 0xd1, selector]).expect("pinsrw");
        assert_eq!(bench.mmx(2), insert(n & 3) as u64);
        bench.core.xmm[2] = a;
        bench.poke(DATA + 1, &(general as u16).to_le_bytes());
        bench
            .run(&[0x66, 0x0f, 0xc4, 0x57, 0x01, selector])
            .expect("pinsrw from memory");
        assert_eq!(bench.core.xmm[2], insert(n));
    }
}
