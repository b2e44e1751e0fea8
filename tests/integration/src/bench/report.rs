//! Tables of what was measured, in markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::engine::{ENGINES, Log};
use super::run::{Cost, Measured};
use super::statistics::{geometric_mean, median};

/// The workload that only waits; it is in no mean.
pub const IDLE: &str = "idle";
/// The row of a boot to power-off.
pub const BOOT: &str = "boot to power-off";

/// Which of a cost's times is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Processor time: for a host that has other things to do.
    Cpu,
    /// Time that went by.
    Wall,
}

impl Clock {
    fn of(self, cost: &Cost) -> f64 {
        match self {
            Clock::Cpu => cost.cpu,
            Clock::Wall => cost.wall,
        }
    }
}

/// What one engine showed in one round.
#[derive(Clone, Debug)]
pub struct EngineRound {
    /// Index in [`ENGINES`].
    pub engine: usize,
    /// A boot to power-off with nothing to do.
    pub boot: Measured,
    /// The workloads.
    pub workloads: Measured,
}

/// All rounds.
#[derive(Debug)]
pub struct Results {
    /// The time that is compared.
    pub clock: Clock,
    /// What each round showed of each engine.
    pub rounds: Vec<Vec<EngineRound>>,
    /// The workloads in the order in which they ran.
    pub order: Vec<String>,
}

impl Results {
    /// Seconds of `row` on `engine` in one round: the median of its repetitions.
    fn in_round(&self, round: &[EngineRound], engine: usize, row: &str) -> Option<f64> {
        let run = round.iter().find(|run| run.engine == engine)?;
        if row == BOOT {
            return Some(self.clock.of(&run.boot.whole));
        }
        let costs = run.workloads.workloads.get(row)?;
        let times: Vec<f64> = costs.iter().map(|cost| self.clock.of(cost)).collect();
        median(&times)
    }

    /// Seconds of `row` on `engine`: the median of the rounds.
    fn seconds(&self, engine: usize, row: &str) -> Option<f64> {
        let rounds = self.rounds.iter();
        let times: Vec<f64> = rounds
            .filter_map(|round| self.in_round(round, engine, row))
            .collect();
        median(&times)
    }

    /// How many times as long `of` takes for `row` as `engine`: the median of the rounds' ratios.
    fn speed(&self, engine: usize, of: usize, row: &str) -> Option<f64> {
        let rounds = self.rounds.iter();
        let ratios: Vec<f64> = rounds
            .filter_map(|round| {
                let other = self.in_round(round, of, row)?;
                Some(other / self.in_round(round, engine, row)?)
            })
            .collect();
        median(&ratios)
    }

    fn measured(&self) -> Vec<usize> {
        let first = self.rounds.first();
        first.map_or(Vec::new(), |round| {
            round.iter().map(|run| run.engine).collect()
        })
    }

    fn rows(&self) -> Vec<&str> {
        let busy = self.order.iter().map(String::as_str);
        [BOOT]
            .into_iter()
            .chain(busy.filter(|name| *name != IDLE))
            .collect()
    }

    /// Seconds of every engine, and how fast each is in comparison with QEMU's TCG and with QEMU
    /// as it counts instructions.
    pub fn speeds(&self) -> String {
        let engines = self.measured();
        let bases: Vec<usize> = ["qemu", "qemu-icount"]
            .into_iter()
            .filter_map(|name| engines.iter().copied().find(|e| ENGINES[*e].name == name))
            .collect();
        let compared: Vec<(usize, usize)> = bases
            .iter()
            .flat_map(|base| {
                let ours = engines.iter().filter(|e| ENGINES[**e].is_ours_alone());
                ours.map(move |engine| (*engine, *base))
            })
            .collect();
        let mut columns: Vec<String> = engines
            .iter()
            .map(|engine| format!("{} s", ENGINES[*engine].name))
            .collect();
        columns.extend(
            compared.iter().map(|(engine, base)| {
                format!("{} : {}", ENGINES[*engine].name, ENGINES[*base].name)
            }),
        );
        let mut table = header("workload", &columns);
        for row in self.rows() {
            let seconds = engines
                .iter()
                .map(|engine| cell(self.seconds(*engine, row), 3));
            let speeds = compared
                .iter()
                .map(|(engine, base)| cell(self.speed(*engine, *base, row), 2));
            line(&mut table, row, seconds.chain(speeds));
        }
        let blank = engines.iter().map(|_| String::new());
        let means = compared
            .iter()
            .map(|(engine, base)| cell(self.mean(*engine, *base), 2));
        line(&mut table, "**geometric mean**", blank.chain(means));
        table
    }

    fn mean(&self, engine: usize, of: usize) -> Option<f64> {
        let speeds: Option<Vec<f64>> = self
            .rows()
            .into_iter()
            .map(|row| self.speed(engine, of, row))
            .collect();
        geometric_mean(&speeds?)
    }

    /// What recording costs, and how fast a replay is, for whatever was recorded.
    pub fn recording(&self) -> String {
        let engines = self.measured();
        let position = |name: &str| engines.iter().copied().find(|e| ENGINES[*e].name == name);
        // The time of the first, in the time of the second.
        let compared: Vec<(usize, usize, &str)> = [
            ("ours-record", "ours", "ours: recording / plain"),
            ("ours-replay", "ours-record", "ours: replay / recording"),
            ("qemu-replay", "qemu-record", "QEMU: replay / recording"),
        ]
        .into_iter()
        .filter_map(|(one, other, title)| Some((position(one)?, position(other)?, title)))
        .collect();
        if compared.is_empty() {
            return String::new();
        }
        let titles: Vec<String> = compared
            .iter()
            .map(|(_, _, title)| (*title).to_owned())
            .collect();
        let mut table = header("time of", &titles);
        for row in self.rows() {
            // A speed is the inverse of a time.
            let cells = compared
                .iter()
                .map(|(one, other, _)| cell(self.speed(*other, *one, row), 3));
            line(&mut table, row, cells);
        }
        let means = compared
            .iter()
            .map(|(one, other, _)| cell(self.mean(*other, *one), 3));
        line(&mut table, "**geometric mean**", means);
        table
    }

    /// How much the logs grew.
    pub fn logs(&self) -> String {
        let engines = self.measured();
        if !engines.iter().any(|e| ENGINES[*e].log == Log::Record) {
            return String::new();
        }
        let columns = [
            "a boot, bytes",
            "an idle guest, bytes/s",
            "a computing guest, bytes/s",
        ];
        let mut table = header("log of", &columns.map(str::to_owned));
        for engine in engines {
            if ENGINES[engine].log != Log::Record {
                continue;
            }
            let mut boots = Vec::new();
            let mut rates: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
            for round in &self.rounds {
                let Some(run) = round.iter().find(|run| run.engine == engine) else {
                    continue;
                };
                boots.push(run.boot.whole.log as f64);
                for is_idle in [true, false] {
                    let costs = run.workloads.workloads.iter();
                    let costs = costs.filter(|(name, _)| (*name == IDLE) == is_idle);
                    let costs: Vec<&Cost> = costs.flat_map(|(_, costs)| costs).collect();
                    let bytes: u64 = costs.iter().map(|cost| cost.log).sum();
                    let seconds: f64 = costs.iter().map(|cost| cost.wall).sum();
                    if seconds > 0.0 {
                        let rate = bytes as f64 / seconds;
                        rates.entry(is_idle).or_default().push(rate);
                    }
                }
            }
            let rate = |is_idle| rates.get(&is_idle).and_then(|rates| median(rates));
            let cells = [median(&boots), rate(true), rate(false)];
            line(
                &mut table,
                ENGINES[engine].name,
                cells.map(|value| cell(value, 0)).into_iter(),
            );
        }
        table
    }
}

fn header(first: &str, columns: &[String]) -> String {
    let mut table = format!("| {first} | {} |\n|---|", columns.join(" | "));
    table.push_str(&"---:|".repeat(columns.len()));
    table.push('\n');
    table
}

fn line(table: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    writeln!(table, "| {first} | {} |", cells.join(" | ")).expect("a string takes it");
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(seconds: &[f64]) -> Vec<Cost> {
        let cost = |seconds: &f64| Cost {
            wall: *seconds,
            cpu: *seconds,
            log: 100,
        };
        seconds.iter().map(cost).collect()
    }

    fn results(rounds: &[[(&str, f64); 3]]) -> Results {
        let round = |engines: &[(&str, f64); 3]| {
            let runs = engines.iter().map(|(name, factor)| {
                let engine = ENGINES.iter().position(|engine| engine.name == *name);
                let mut run = EngineRound {
                    engine: engine.expect("there is such an engine"),
                    boot: Measured::default(),
                    workloads: Measured::default(),
                };
                run.boot.whole = costs(&[2.0 * factor])[0];
                let busy = costs(&[factor * 1.0, factor * 3.0, factor * 9.0]);
                run.workloads.workloads.insert("busy".to_owned(), busy);
                let idle = costs(&[10.0]);
                run.workloads.workloads.insert(IDLE.to_owned(), idle);
                run
            });
            runs.collect()
        };
        Results {
            clock: Clock::Cpu,
            rounds: rounds.iter().map(round).collect(),
            order: vec!["busy".to_owned(), IDLE.to_owned()],
        }
    }

    #[test]
    fn a_slow_round_slows_both_sides_of_a_ratio() {
        let results = results(&[
            [("qemu", 1.0), ("ours", 0.5), ("ours-record", 0.5)],
            [("qemu", 9.0), ("ours", 4.5), ("ours-record", 4.5)],
        ]);
        let table = results.speeds();
        assert!(
            table.contains("| busy | 15.000 | 7.500 | 7.500 | 2.00 |"),
            "{table}"
        );
        assert!(
            table.contains("| **geometric mean** |  |  |  | 2.00 |"),
            "{table}"
        );
        assert!(!table.contains(IDLE), "{table}");
        assert!(results.recording().contains("| busy | 1.000 |"));
        assert!(results.logs().contains("| ours-record | 100 | 10 |"));
    }
}
