//! What the operating system says of the process, under the names that all of Prometheus' clients give it.
//!
//! It is read when it is asked for, and no part of the registry: counters there are whole numbers, which seconds of a processor are not, and
//! several servers in one process would share them. Source of names and meanings:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>, of what is read: proc(5).
use super::table::PROCESS;
use std::{fmt::Write, fs, io};

/// The metrics in the text that Prometheus scrapes; nothing where the system does not tell.
pub(super) fn text() -> String {
    let Ok(values) = values() else { return String::new() };
    let mut text = String::new();
    for ((name, kind, help), value) in PROCESS.iter().zip(values) {
        let kind = kind.word();
        // Writing into a text does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    text
}

/// In the order of the table.
fn values() -> io::Result<[f64; PROCESS.len()]> {
    let unread = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let stat = Stat::parse(&fs::read_to_string("/proc/self/stat")?).ok_or_else(|| unread("stat"))?;
    // The same at every scrape, as a moment must be that tells restarts; now less the time since then is not.
    let machine = fs::read_to_string("/proc/stat")?;
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    // No limit is no number; none is known to matter then.
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Ok([
        stat.cpu_s,
        stat.resident_bytes,
        stat.virtual_bytes,
        stat.n_threads,
        super::size(fs::read_dir("/proc/self/fd")?.count()),
        files_max.map_or(f64::INFINITY, super::whole),
        booted.ok_or_else(|| unread("btime"))? + stat.start_s,
    ])
}

/// /proc/self/stat, in base units. `start_s`: since the machine's start.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_s: f64,
    n_threads: f64,
    start_s: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The second field is the program's name between parentheses, of which it may hold some, and spaces.
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Numbers as in proc(5), where the first of these is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks_per_s = super::whole(rustix::param::clock_ticks_per_second());
        let page_bytes = super::size(rustix::param::page_size());
        Some(Self {
            cpu_s: (field(14)? + field(15)?) / ticks_per_s,
            n_threads: field(20)?,
            start_s: field(22)? / ticks_per_s,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn the_line_of_a_program_with_a_strange_name_is_read() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 12 0 4000 1048576 25 18446744073709551615";
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let expected = Stat {
            cpu_s: 300.0 / ticks_per_s,
            n_threads: 12.0,
            start_s: 4000.0 / ticks_per_s,
            virtual_bytes: 1_048_576.0,
            resident_bytes: 25.0 * rustix::param::page_size() as f64,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        for broken in ["", "7 (a) S 1", "7 a S", &line.replace("250", "x")] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
    }

    /// Of this very process, of which something is known.
    #[test]
    fn values_are_those_of_this_process() {
        // Processors are counted in hundredths of a second.
        while values().unwrap()[0] < 0.01 {}
        let [cpu_s, resident, virtual_, n_threads, n_files, files_max, start] = values().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((0.01..1e6).contains(&cpu_s), "{cpu_s}");
        assert!(resident > 1e6 && resident < virtual_, "{resident} of {virtual_}");
        assert!((2.0..1e5).contains(&n_threads), "{n_threads}");
        assert!(n_files >= 3.0 && n_files <= files_max, "{n_files} of {files_max}");
        assert_eq!(start, values().unwrap()[6], "it started once");
        assert!(start <= now + 1.0 && start > now - 86400.0, "{start}, now is {now}");
        let stamp = fs::metadata("/proc/self").unwrap().modified().unwrap();
        let stamp = stamp.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(stamp >= start - 1.0, "started at {start}, and its folder is older: {stamp}");
    }
}
