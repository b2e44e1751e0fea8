//! Two sides, and what lies between them.

use ft::Settings;
use ft::Tick;
use ft::arbiter::{Arbiter, MemoryStore};
use ft::backup::{self, Backup, Offer};
use ft::channel::{BlobKind, PAGE_BYTES};
use ft::flag::Decision;
use ft::flag::Members;
use ft::identity::{Generation, Incarnation};
use ft::identity::{Semantics, VmId};
use ft::log::Body;
use ft::log::ComponentDigest;
use ft::primary::{self, Pairing, Primary};
use machine::Output;
use machine::Position;

pub const A: Incarnation = Incarnation([0xa; 16]);
pub const B: Incarnation = Incarnation([0xb; 16]);
pub const VM: VmId = VmId([7; 16]);
pub const G: Generation = Generation(1);
pub const MS: Tick = 1_000_000;

pub fn semantics() -> Semantics {
    Semantics {
        engine: "soft".into(),
        cpu_model: "m1".into(),
        number: 1,
    }
}

pub fn pairing() -> Pairing {
    Pairing {
        semantics: semantics(),
        vm: VM,
        generation: G,
        us: A,
        ram_size: 8 * PAGE_BYTES as u64,
        heartbeat_port: 1,
    }
}

pub fn offer() -> Offer {
    Offer {
        semantics: vec![semantics()],
        us: B,
        vm: None,
        heartbeat_port: 2,
    }
}

pub fn digest(value: u64) -> Vec<ComponentDigest> {
    vec![ComponentDigest {
        name: "cpu".into(),
        value,
    }]
}

pub fn output(position: u64, through: u64, text: &str) -> Output {
    Output::Console {
        position: Position(position),
        through,
        bytes: text.as_bytes().to_vec(),
    }
}

/// Two sides and what lies between them.
pub struct Pair {
    pub now: Tick,
    pub primary: Primary,
    pub backup: Backup,
    pub arbiter: Arbiter<MemoryStore>,
    pub members: Option<Members>,
    pub said_by_primary: Vec<primary::Command>,
    pub said_by_backup: Vec<backup::Command>,
}

impl Pair {
    pub fn new(settings: Settings, offer: Offer) -> Pair {
        let mut pair = Pair {
            now: 1000 * MS,
            primary: Primary::new(settings.clone(), 0, Position(0)),
            backup: Backup::new(settings, offer),
            arbiter: Arbiter::new(MemoryStore::default()),
            members: None,
            said_by_primary: Vec::new(),
            said_by_backup: Vec::new(),
        };
        pair.primary.connect(pair.now, pairing()).unwrap();
        pair
    }

    /// A pair that is protected, both machines at position 100.
    pub fn protected() -> Pair {
        let mut pair = Pair::new(Settings::default(), offer());
        pair.exchange();
        pair.clone_machine(1);
        pair.exchange();
        assert_eq!(pair.primary.status(pair.now).phase, "protected");
        assert_eq!(pair.backup.status().phase, "replaying");
        pair.said_by_primary.clear();
        pair.said_by_backup.clear();
        pair
    }

    pub fn clone_machine(&mut self, backup_digest: u64) {
        let primary = &mut self.primary;
        let mut memory = vec![0; 8 * PAGE_BYTES];
        memory[3 * PAGE_BYTES] = 1;
        primary.send_blob(BlobKind::Config, 2, b"{}").unwrap();
        primary.send_pages(0, &memory, true).unwrap();
        primary.send_blob(BlobKind::State, 3, b"cpu").unwrap();
        primary
            .finish_clone(self.now, Position(100), digest(1))
            .unwrap();
        self.exchange();
        let last = self.said_by_backup.last();
        assert!(matches!(last, Some(backup::Command::CheckClone { .. })));
        self.backup
            .on_clone_checked(&digest(backup_digest), self.members.as_ref());
    }

    pub fn sent_by_primary(&mut self) -> Vec<u8> {
        let bytes = self.primary.transmit(self.now).to_vec();
        self.primary.transmitted(self.now, bytes.len());
        bytes
    }

    pub fn sent_by_backup(&mut self) -> Vec<u8> {
        let bytes = self.backup.transmit(self.now).to_vec();
        self.backup.transmitted(bytes.len());
        bytes
    }

    /// Lets both sides speak until they have nothing to say.
    pub fn exchange(&mut self) {
        loop {
            let forth = self.sent_by_primary();
            self.backup.on_bytes(self.now, &forth);
            let back = self.sent_by_backup();
            self.primary.on_bytes(self.now, &back);
            self.obey();
            if forth.is_empty() && back.is_empty() {
                return;
            }
        }
    }

    pub fn obey(&mut self) {
        while let Some(command) = self.primary.next_command() {
            if let primary::Command::BeginGeneration(members) = &command {
                self.arbiter.begin(members).unwrap();
                self.members = Some(members.clone());
                self.primary.on_generation_begun(self.now, Ok(()));
            }
            self.said_by_primary.push(command);
        }
        while let Some(command) = self.backup.next_command() {
            self.said_by_backup.push(command);
        }
    }

    pub fn primary_said(&mut self) -> Vec<primary::Command> {
        self.obey();
        std::mem::take(&mut self.said_by_primary)
    }

    pub fn backup_said(&mut self) -> Vec<backup::Command> {
        self.obey();
        self.said_by_backup
            .retain(|command| *command != backup::Command::Replay);
        std::mem::take(&mut self.said_by_backup)
    }

    pub fn append(&mut self, position: u64, body: Body) {
        self.primary
            .append(self.now, Position(position), body)
            .unwrap();
    }

    /// Lets the datagrams arrive that the two have made.
    pub fn send_heartbeats(&mut self) {
        self.obey();
        for command in &self.said_by_primary {
            if let primary::Command::Heartbeat(datagram) = command {
                self.backup.on_datagram(self.now, datagram);
            }
        }
        for command in &self.said_by_backup {
            if let backup::Command::Heartbeat(datagram) = command {
                self.primary.on_datagram(self.now, datagram);
            }
        }
    }

    pub fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.now += 50 * MS;
            self.primary.on_tick(self.now);
            self.backup.on_tick(self.now);
            self.obey();
        }
    }
}

pub fn a_claims() -> primary::Command {
    primary::Command::Decide {
        generation: G,
        decision: Decision::Won { by: A },
    }
}

pub fn b_claims() -> backup::Command {
    backup::Command::Decide {
        generation: G,
        decision: Decision::Won { by: B },
    }
}
