//! The template compiler: 64-bit guest code as host code.
//!
//! Does: translate a decoded block by giving each instruction a template, which is mostly the same
//! instruction with the host's operands; keep the code, link blocks, run it. Does not: decide which
//! blocks are worth it (`cpu`), or know what instructions without a template do: their handler, the
//! interpreter's, is called.
//!
//! Invariant: **compiled code is invisible.** Wherever the guest could look (a fault, a handler, a
//! limit) its registers, flags and steps are those that the interpreter would have.
//!
//! # How a block is laid out
//!
//! ```text
//! entry      charge R15 for all instructions; if it is below zero, leave
//! body       the templates, one after another; calls of handlers
//! end        to the next block: a jump within the page, or through the jump cache
//! stubs      what is rare: slow paths, taken branches, exits
//! ```
//!
//! Code does not know where it runs: neither its RIP (the frame has the start of the page, so the
//! same physical block serves every linear address) nor where the rest of the program is.
//!
//! For the loop `add rax, [rdi]; add rdi, 8; dec rcx; jnz` at offset 40h of its page, the host gets
//! (`cargo run -p x86 --example translate -- 480307 4883c708 48ffc9 75f4` prints it):
//!
//! ```text
//! entry:  sub  r15, 4              four steps; R15 is what is left
//!         jl   budget
//!         lea  r13, [rdi]          add rax, [rdi]: from the linear address
//!         …                        by the TLB (see `memory`); ja slow
//!         add  r13, [r14+18h]      to the host's,
//!         add  r11, [r13]          and the instruction itself: the guest's RAX lives in R11
//! after:  add  rdi, 8              add rdi, 8
//!         dec  rcx                 dec rcx: CF of the ADD is still in RFLAGS
//!         jne  taken               jne 40h
//!         lahf                     the end: save the flags in AX
//!         seto al
//!         jmp  unlinked            later: to the next block's code
//! budget: add  r15, 4              what was not executed is not charged
//!         mov  r13d, block
//!         mov  r14d, 1             `Leaving::Budget`
//!         jmp  [rsp+leave]
//! slow:   mov  r13d, block:0       the flags were saved at entry
//!         call [rsp+call_handler]
//!         cmp  al, 81h             RFLAGS as the template would have left them
//!         sahf
//!         jmp  after
//! taken:  lahf                     the ADD may fault, and then the flags are seen
//!         seto al
//!         jmp  entry
//! ```
//!
//! A fault in `add rax, [rdi]` is the slow path's affair: the handler does the instruction from the
//! start, since the template has changed nothing but scratch registers. It knows from R15 and from
//! the instruction's index how many steps were made.
//!
//! # What ends the life of code
//!
//! Its block's: the bytes were stored to, or the cache is full. Nothing of this happens while
//! compiled code runs; a store to a watched page takes the slow path, whose handler leaves.
//!
//! | file | concept |
//! |---|---|
//! | `frame` | where things are while compiled code runs, the way in and out |
//! | `run` | what `frame` calls: registers, steps, handlers |
//! | `translate` | the driver: order, stubs, exits |
//! | `family` | which template an instruction gets |
//! | `flags`, `registers`, `memory` | where the guest's state is |
//! | `integer`, `bits`, `control`, `vector` | the templates |
//! | `emit`, `code_memory` | bytes, and where they go |
mod bits;
mod code_memory;
mod control;
mod emit;
mod family;
mod flags;
mod frame;
mod integer;
mod memory;
mod registers;
mod run;
mod translate;
mod vector;

use std::collections::BTreeMap;

use arch::cpuid::{Features, Profile};

use self::code_memory::CodeMemory;
pub(crate) use self::run::Leaving;
use self::translate::{Block, Translator};
use crate::cpu::Cpu;
use crate::decode::{self, Decoded};
use crate::env::Env;
use crate::op::{CodeSize, Op};

/// What of the host matters to templates; results do not depend on it.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// What it can execute.
    features: Features,
    /// Not of the host: flags are kept at every start of a block, see [`Leaving::Budget`].
    exact: bool,
}

/// A jump that can be linked, where it was placed.
#[derive(Clone, Copy)]
struct Site {
    /// Offset of its displacement in code memory.
    at: u32,
    /// Its displacement while it is not linked.
    unlinked: i32,
    /// Offset of the target in the page.
    target: u16,
    /// The block it belongs to.
    block: u32,
}

/// Code of blocks, and how they lead to each other.
pub(crate) struct Compiler {
    memory: CodeMemory,
    host: Host,
    sites: Vec<Site>,
    /// Sites that lead to a block.
    incoming: BTreeMap<u32, Vec<u32>>,
    /// Code to run next, and steps it may make.
    entry: (u64, u64),
    /// Why and where it left.
    left: (Leaving, u32),
}

impl Compiler {
    /// A compiler with so many bytes for code; `None` if this host cannot have one.
    pub(crate) fn new(bytes: usize, exact: bool) -> Option<Compiler> {
        if !logic_clears_af() {
            return None;
        }
        Some(Compiler {
            memory: CodeMemory::new(bytes)?,
            host: Host {
                features: host_features(),
                exact,
            },
            sites: Vec::new(),
            incoming: BTreeMap::new(),
            entry: (0, 0),
            left: (Leaving::Stopped, 0),
        })
    }

    /// Compiles a block of 64-bit code that lies within a page: `block` is its number, `start` its
    /// offset in the page. `Ok(0)` if it cannot be compiled, `Err` if there is no room.
    pub(crate) fn compile(
        &mut self,
        block: u32,
        start: u16,
        ops: &[Op],
        bytes: &[u8],
        features: Features,
    ) -> Result<u64, Full> {
        let Some(instructions) = translate::decode(ops, bytes, start, features) else {
            return Ok(0);
        };
        let place = Block {
            block,
            start,
            length: bytes.len() as u16,
            first_site: self.sites.len() as u32,
        };
        let Some(translation) = Translator::translate(self.host, place, ops, &instructions) else {
            return Ok(0);
        };
        let offset = self.memory.append(&translation.code).ok_or(Full)?;
        for site in translation.sites {
            let at = site.at as usize;
            let unlinked = translation.code[at..at + 4].try_into().expect("four bytes");
            self.sites.push(Site {
                at: offset + site.at,
                unlinked: i32::from_le_bytes(unlinked),
                target: site.target,
                block,
            });
        }
        Ok(self.memory.address(offset))
    }

    /// Offset in the page of a site's target.
    fn site_target(&self, site: u32) -> u16 {
        self.sites[site as usize].target
    }

    /// The block of a site.
    pub(crate) fn site_block(&self, site: u32) -> u32 {
        self.sites[site as usize].block
    }

    /// Links a site to the code of `block`.
    pub(crate) fn link(&mut self, site: u32, block: u32, code: u64) {
        let at = self.sites[site as usize].at;
        let from = self.memory.address(at + 4);
        let distance = code.wrapping_sub(from) as i32;
        self.memory.patch(at, &distance.to_le_bytes());
        self.incoming.entry(block).or_default().push(site);
    }

    /// A block with code at `code`, if any, is gone. No jump leads to it any more; the jump cache may,
    /// and leaves there.
    pub(crate) fn drop_block(&mut self, block: u32, code: u64) {
        if code != 0 {
            let entry = (code - self.memory.address(0)) as u32;
            self.memory
                .patch(entry + translate::ENTRY_JUMP, &translate::ALWAYS);
        }
        for site in self.incoming.remove(&block).unwrap_or_default() {
            let site = self.sites[site as usize];
            self.memory.patch(site.at, &site.unlinked.to_le_bytes());
        }
    }

    /// Forgets all code.
    pub(crate) fn clear(&mut self) {
        self.memory.clear();
        self.sites.clear();
        self.incoming.clear();
    }
}

/// Guest and host code of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Host code, with a share for each instruction in order, and one for what is out of line.
    pub shares: Vec<Vec<u8>>,
    /// Lengths of the guest's instructions.
    pub lengths: Vec<usize>,
}

/// What a block of 64-bit code at offset `start` of its page becomes; `None` if nothing can be made
/// of it. For people who want to see it.
pub fn listing(bytes: &[u8], start: u16, features: Features) -> Option<Listing> {
    let mut ops = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() && ops.len() < crate::block::LONGEST_BLOCK {
        let mut window = bytes[offset..].to_vec();
        window.resize(window.len().max(decode::LONGEST), 0x90);
        let size = CodeSize::Bits64;
        let Decoded::Op { op, ends_block } = decode::decode(&window, offset as u16, size, features)
        else {
            return None;
        };
        offset += usize::from(op.length);
        ops.push(op);
        if ends_block || op.length == 0 {
            break;
        }
    }
    let bytes = bytes.get(..offset)?;
    let instructions = translate::decode(&ops, bytes, start, features)?;
    let place = Block {
        block: 0,
        start,
        length: bytes.len() as u16,
        first_site: 0,
    };
    let host = Host {
        features: host_features(),
        exact: false,
    };
    let translation = Translator::translate(host, place, &ops, &instructions)?;
    let mut bounds = vec![0];
    bounds.extend(translation.starts.iter().skip(1).map(|&at| at as usize));
    bounds.push(translation.code.len());
    let shares = bounds
        .windows(2)
        .map(|pair| translation.code[pair[0]..pair[1]].to_vec())
        .collect();
    let lengths = ops.iter().map(|op| usize::from(op.length)).collect();
    Some(Listing { shares, lengths })
}

/// The features of models that this host has, as far as templates use them.
fn host_features() -> Features {
    macro_rules! detected {
        ($($name:tt $feature:ident)*) => {
            [$((std::arch::is_x86_feature_detected!($name), Features::$feature)),*]
        };
    }
    // What every x86-64 processor has, and more that no template needs.
    let base = Profile::V1.features();
    let detected = detected!(
        "sse3" SSE3 "ssse3" SSSE3 "sse4.1" SSE4_1 "sse4.2" SSE4_2 "popcnt" POPCNT "aes" AES
        "pclmulqdq" PCLMULQDQ "avx" AVX "avx2" AVX2 "bmi1" BMI1 "bmi2" BMI2 "lzcnt" LZCNT
        "movbe" MOVBE "sha" SHA
    );
    let has = detected.into_iter().filter(|(has, _)| *has);
    has.fold(base, |all, (_, feature)| all.union(feature))
}

/// There is no room for more code.
#[derive(Debug)]
pub(crate) struct Full;

/// Runs compiled code at `code` for at most `budget` steps; says why it left, and the site of a
/// jump that wants to be linked.
#[allow(unsafe_code)]
pub(crate) fn run(cpu: &mut Cpu, env: &mut Env<'_>, code: u64, budget: u64) -> (Leaving, u32) {
    cpu.cache.compiler().entry = (code, budget);
    // SAFETY: both pointers come from unique borrows that nobody uses until this returns; the
    // lifetime of the environment is only forgotten for as long. The code is compiled code: it came
    // from the cache, which keeps it while it can be found.
    unsafe { frame::enter(cpu, std::ptr::from_mut(env).cast()) };
    cpu.cache.compiler().left
}

/// What the jump cache has for a block without code: compiled code leaves, with RIP there.
pub(crate) fn way_out() -> u64 {
    frame::way_out as *const () as u64
}

/// True if AND, OR, XOR and TEST clear AF here, which is our definition and every known processor's.
#[allow(unsafe_code)]
fn logic_clears_af() -> bool {
    macro_rules! flags_after {
        ($operation:literal) => {{
            let flags: u64;
            // SAFETY: only the named registers and the flags change; the stack is balanced.
            unsafe {
                std::arch::asm!(
                    // 15 + 1 sets AF.
                    "mov {a:e}, 15",
                    "add {a:e}, 1",
                    $operation,
                    "pushfq",
                    "pop {flags}",
                    a = out(reg) _,
                    flags = out(reg) flags,
                );
            }
            flags
        }};
    }
    let all = flags_after!("and {a:e}, {a:e}")
        | flags_after!("or {a:e}, {a:e}")
        | flags_after!("xor {a:e}, {a:e}")
        | flags_after!("test {a:e}, {a:e}");
    all & crate::flags::AF == 0
}
