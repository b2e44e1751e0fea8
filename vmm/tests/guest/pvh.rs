//! A kernel's file around a few instructions.

/// Where the code lies and starts.
const LOAD: u32 = 0x10_0000;

/// An ELF file with a PVH note: it is entered at the first byte of `code`, which lies at 1 MiB.
pub fn kernel_file(code: &[u8]) -> Vec<u8> {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const CODE_AT: u64 = 0x1000;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    for quad in [u64::from(LOAD), 64, 0] {
        file.extend(quad.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut program = |kind: u32, offset: u64, address: u32, length: usize, align: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        let (address, length) = (u64::from(address), length as u64);
        for quad in [offset, address, address, length, length, align] {
            file.extend(quad.to_le_bytes());
        }
    };
    program(1, CODE_AT, LOAD, code.len(), 0x1000);
    program(4, NOTE_AT, 0, 20, 4);
    for word in [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), LOAD] {
        file.extend(word.to_le_bytes());
    }
    file.resize(CODE_AT as usize, 0);
    file.extend(code);
    file
}
