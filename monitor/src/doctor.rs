//! `mayfly-monitor doctor`: whether this machine can run functions, which layers its kernel offers, what to do about a miss.
//!
//! It tries what the monitor will do (open the device, make a VM and a vCPU) instead of guessing from version numbers, and
//! changes nothing. The answer is JSON for `mayfly doctor` or a table for people; the exit status is 0 when functions can run.
#![allow(unsafe_code)]

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;

use crate::jail::{self, Layer};

/// The interface version that every KVM since Linux 2.6.22 has.
const API: i32 = 12;

/// What the monitor asks of KVM beyond its first version.
const CAPABILITIES: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
];

/// Without these no instance is started.
const NEEDED_LAYERS: [&str; 2] = ["openat2", "seccomp"];

#[derive(Clone, Debug)]
pub struct Options {
    pub json: bool,
    pub device: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            json: false,
            device: "/dev/kvm".into(),
        }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    kvm: KvmReport,
    layers: Vec<LayerReport>,
    clock: Clock,
    /// Settings of this kernel that cost speed, never correctness.
    hints: Vec<Hint>,
    kernel: String,
    cpu: String,
}

#[derive(Debug, Default, Serialize)]
struct KvmReport {
    device: PathBuf,
    readable: bool,
    api: Option<i32>,
    vm: bool,
    vcpu: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// Whether this machine is itself a virtual machine: its KVM is slower then.
    nested: bool,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    name: &'static str,
    available: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Hint {
    name: &'static str,
    value: String,
    advice: &'static str,
}

impl From<Layer> for LayerReport {
    fn from(layer: Layer) -> Self {
        Self {
            name: layer.name,
            available: layer.in_force,
            detail: layer.detail,
        }
    }
}

/// Looks, prints to stdout, and gives the exit status.
pub fn run(options: &Options) -> io::Result<u8> {
    use std::io::Write as _;
    let report = Report::examine(&options.device);
    let mut out = io::stdout().lock();
    if options.json {
        // A report is strings, numbers and booleans: it always has a form in JSON.
        writeln!(out, "{}", serde_json::to_string(&report).unwrap_or_default())?;
    } else {
        out.write_all(report.table().as_bytes())?;
    }
    Ok(if report.can_run() { 0 } else { 1 })
}

impl Report {
    pub fn examine(device: &Path) -> Self {
        let cpu = Cpu::read();
        Self {
            kvm: KvmReport::examine(device, &cpu),
            layers: jail::probe().into_iter().map(LayerReport::from).collect(),
            clock: Clock::read(&cpu),
            hints: hints(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            cpu: cpu.name,
        }
    }

    /// Whether functions can run here.
    pub fn can_run(&self) -> bool {
        let layer = |name: &str| {
            self.layers
                .iter()
                .any(|layer| layer.name == name && layer.available)
        };
        self.kvm.error.is_none() && self.kvm.vcpu && NEEDED_LAYERS.into_iter().all(layer)
    }

    /// The report for people.
    fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |mark: &str, name: &str, detail: &str| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{mark:<4} {name:<14} {detail}");
        };
        let kvm = &self.kvm;
        let device = kvm.device.display();
        match (&kvm.error, &kvm.advice) {
            (Some(error), advice) => {
                line("FAIL", "kvm", error);
                if let Some(advice) = advice {
                    line("", "", &format!("→ {advice}"));
                }
            }
            (None, _) => {
                let nested = if kvm.nested {
                    ", in a virtual machine (nested: slower)"
                } else {
                    ""
                };
                line("ok", "kvm", &format!("{device} makes virtual machines{nested}"));
            }
        }
        for layer in &self.layers {
            let needed = NEEDED_LAYERS.contains(&layer.name);
            let mark = match (layer.available, needed) {
                (true, _) => "ok",
                (false, true) => "FAIL",
                (false, false) => "miss",
            };
            line(mark, layer.name, &layer.detail);
        }
        match &self.clock.advice {
            None => line("ok", "clock", &self.clock.detail),
            Some(advice) => line("hint", "clock", &format!("{}: {advice}", self.clock.detail)),
        }
        for hint in &self.hints {
            line("hint", hint.name, &format!("{}: {}", hint.value, hint.advice));
        }
        line("", "kernel", &self.kernel);
        line("", "cpu", &self.cpu);
        text.push_str(if self.can_run() {
            "Functions can run here.\n"
        } else {
            "Functions cannot run here: see FAIL above.\n"
        });
        text
    }
}

impl KvmReport {
    fn examine(device: &Path, cpu: &Cpu) -> Self {
        let mut report = Self {
            device: device.to_owned(),
            nested: cpu.hypervisor,
            ..Self::default()
        };
        if let Err((error, advice)) = report.fill(cpu) {
            report.error = Some(error);
            report.advice = advice;
        }
        report
    }

    /// Goes as far as it can; what stops it, and what to do.
    fn fill(&mut self, cpu: &Cpu) -> Result<(), (String, Option<String>)> {
        let device = self.device.display();
        let file = fs::File::options().read(true).write(true).open(&self.device);
        let file = file.map_err(|error| {
            (
                format!("{device}: {error}"),
                Some(opening_advice(&error, &self.device, cpu)),
            )
        })?;
        self.readable = true;
        let kvm = adopt(file);
        let api = kvm.get_api_version();
        if api < 0 {
            return Err((format!("{device}: not a KVM device"), None));
        }
        self.api = Some(api);
        if api != API {
            return Err((format!("{device}: KVM API {api}, not {API}"), None));
        }
        let missing: Vec<&str> = CAPABILITIES
            .into_iter()
            .filter_map(|(capability, name)| (!kvm.check_extension(capability)).then_some(name))
            .collect();
        if !missing.is_empty() {
            let advice = "use a newer kernel, or one with a complete KVM".to_owned();
            return Err((format!("{device}: without {}", missing.join(", ")), Some(advice)));
        }
        let busy = "another hypervisor may hold the CPU's virtualization: stop it (VirtualBox, VMware), or see dmesg";
        let vm = kvm.create_vm().map_err(|error| {
            (
                format!("{device}: no virtual machine: {error}"),
                Some(busy.to_owned()),
            )
        })?;
        self.vm = true;
        vm.create_vcpu(0).map_err(|error| {
            (
                format!("{device}: no virtual CPU: {error}"),
                Some(busy.to_owned()),
            )
        })?;
        self.vcpu = true;
        Ok(())
    }
}

/// A file that is meant to be the KVM device; whether it is shows at its first answer.
fn adopt(file: fs::File) -> Kvm {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: an open descriptor, given away here. One of another device answers every request with ENOTTY.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

fn opening_advice(error: &io::Error, device: &Path, cpu: &Cpu) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let join = |group: &str| format!("sudo usermod -aG {group} $USER, then log in again");
            match group_of(device) {
                Some(group) => format!("add your user to the device's group: {}", join(&group)),
                None => format!(
                    "give the device a group and yourself that group: sudo chgrp kvm {0}; sudo chmod 660 {0}; {1}",
                    device.display(),
                    join("kvm")
                ),
            }
        }
        io::ErrorKind::NotFound
            if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() =>
        {
            "give the container the device: --device /dev/kvm".to_owned()
        }
        io::ErrorKind::NotFound => match (cpu.virtualization, cpu.hypervisor) {
            (Some(module), _) => format!("load the kernel module: sudo modprobe {module}"),
            (None, true) => {
                "this machine is a virtual machine: turn on nested virtualization for it at its provider"
                    .to_owned()
            }
            (None, false) => "turn on virtualization (VT-x, AMD-V, SVM) in the firmware setup".to_owned(),
        },
        _ => "see dmesg for what the kernel says about KVM".to_owned(),
    }
}

/// The name of the group whose members may use the device, unless that is nobody's but the superuser's.
fn group_of(device: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    const GROUP_READ_WRITE: u32 = 0o060;
    let device = fs::metadata(device).ok()?;
    if device.gid() == 0 || device.mode() & GROUP_READ_WRITE != GROUP_READ_WRITE {
        return None;
    }
    let id = device.gid().to_string();
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
    line.split(':').next().map(str::to_owned)
}

/// What /proc/cpuinfo says of the first processor.
#[derive(Debug, Default)]
struct Cpu {
    name: String,
    hypervisor: bool,
    /// The kernel module for its virtualization.
    virtualization: Option<&'static str>,
    /// Its time-stamp counter has one speed, in whatever state it is.
    steady_counter: bool,
}

impl Cpu {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        let has = |flag: &str| flags.split(' ').any(|known| known == flag);
        Self {
            name: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            hypervisor: has("hypervisor"),
            virtualization: [("vmx", "kvm_intel"), ("svm", "kvm_amd")]
                .into_iter()
                .find_map(|(flag, module)| has(flag).then_some(module)),
            steady_counter: has("constant_tsc") && has("nonstop_tsc"),
        }
    }
}

/// What the kernel tells the time from. Only where that is the time-stamp counter do guests tell it without leaving their virtual machine.
#[derive(Debug, Serialize)]
struct Clock {
    source: String,
    available: Vec<String>,
    steady: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Clock {
    fn read(cpu: &Cpu) -> Self {
        let sources = "/sys/devices/system/clocksource/clocksource0";
        let text = |name: &str| read(&format!("{sources}/{name}")).unwrap_or_default();
        Self::judge(
            &text("current_clocksource"),
            &text("available_clocksource"),
            cpu.steady_counter,
        )
    }

    fn judge(source: &str, available: &str, steady: bool) -> Self {
        let available: Vec<String> = available.split_whitespace().map(str::to_owned).collect();
        let offered = available.iter().any(|name| name == "tsc");
        let (detail, advice) = match (source, steady) {
            ("tsc", true) => (
                "tsc, and steady: guests read the time without a system call".to_owned(),
                None,
            ),
            ("tsc", false) => (
                "tsc, of whose steadiness the processor says nothing: the kernel watches it".to_owned(),
                None,
            ),
            (other, _) => {
                let other = if other.is_empty() { "unknown" } else { other };
                let detail = format!(
                    "{other}: each reading of the time is a system call (by tens of microseconds in a nested virtual machine, instead of 40 ns)"
                );
                let advice = match (steady, offered) {
                    (true, true) => {
                        "sudo sh -c 'echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource' (for good: clocksource=tsc on the kernel's command line)"
                    }
                    (true, false) => {
                        "the kernel has found the counters of the processors apart (see dmesg for tsc); in a virtual machine its provider can offer a steady one"
                    }
                    (false, _) => {
                        "this processor, or its provider, offers no steady time-stamp counter: nothing to be done here"
                    }
                };
                (detail, Some(advice.to_owned()))
            }
        };
        Self {
            source: source.to_owned(),
            available,
            steady,
            detail,
            advice,
        }
    }
}

/// Kernel settings that make calls slower than they need be.
fn hints() -> Vec<Hint> {
    let chosen = |text: &str| {
        let start = text.find('[')? + 1;
        Some(text[start..start + text[start..].find(']')?].to_owned())
    };
    let mut hints = Vec::new();
    let shared = read("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    // Every other value lets the monitor ask for the huge pages that it wants.
    if let Some(value) = shared.as_deref().and_then(chosen).filter(|value| value == "deny") {
        hints.push(Hint {
            name: "shmem_enabled",
            value,
            advice: "no huge pages in snapshots, so an instance of Node meets 1,800 pages instead of 740 while it is made: sudo sh -c 'echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled'",
        });
    }
    let own = read("/sys/kernel/mm/transparent_hugepage/enabled");
    if let Some(value) = own.as_deref().and_then(chosen).filter(|value| value == "never") {
        hints.push(Hint {
            name: "transparent_hugepage",
            value,
            advice: "no huge pages for what calls write, so an instance of CPython costs 9.7 ms of processor time instead of 7.3: sudo sh -c 'echo madvise > /sys/kernel/mm/transparent_hugepage/enabled'",
        });
    }
    if let Some(value) = read("/sys/kernel/rcu_expedited").filter(|value| value == "0") {
        hints.push(Hint {
            name: "rcu_expedited",
            value,
            advice: "a virtual machine's end waits for all processors: about a fifth of the calls a second on two of them (730 instead of 890); sudo sh -c 'echo 1 > /sys/kernel/rcu_expedited' (at the cost of idle processors)",
        });
    }
    if let Some(value) = read("/proc/sys/kernel/sched_autogroup_enabled")
        .filter(|value| value == "1" && !has_processor_group())
    {
        hints.push(Hint {
            name: "sched_autogroup",
            value,
            advice: "each instance's session has a scheduling group of its own, so a greedy one does not yield to short calls, whose 99th percentile beside it is 3 times what it is alone instead of 2: run Mayfly in a cgroup with the controller cpu (a systemd service with CPUWeight=100, a pod), or sudo sysctl kernel.sched_autogroup_enabled=0",
        });
    }
    hints
}

/// Whether this process is in a cgroup with processor shares of its own: the root alone has no weight (version 2), or has a release agent
/// (version 1).
fn has_processor_group() -> bool {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            return false;
        };
        let group = Path::new(group.trim_start_matches('/'));
        if controllers.is_empty() {
            return ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().any(|root| {
                let above = Path::new(root).join(group);
                above
                    .ancestors()
                    .take_while(|path| path.starts_with(root))
                    .any(|path| path.join("cpu.weight").exists())
            });
        }
        let place = Path::new("/sys/fs/cgroup").join(controllers).join(group);
        controllers.split(',').any(|name| name == "cpu")
            && place.join("cpu.shares").exists()
            && !place.join("release_agent").exists()
    })
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn json(report: &Report) -> Value {
        serde_json::to_value(report).unwrap()
    }

    #[test]
    fn this_machine_is_described() {
        let report = Report::examine(Path::new("/dev/kvm"));
        let value = json(&report);
        assert_eq!(value["kvm"]["device"], "/dev/kvm");
        for name in ["readable", "vm", "vcpu", "nested"] {
            assert!(value["kvm"][name].is_boolean(), "{name}");
        }
        assert!(
            value["layers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|layer| layer["name"].is_string()
                    && layer["available"].is_boolean()
                    && layer["detail"].is_string())
        );
        assert!(value["kernel"].as_str().unwrap().contains('.'));
        // Where a VM can be made there is nothing to complain about, and the other way round.
        assert_eq!(value["kvm"]["vcpu"] == true, value["kvm"].get("error").is_none());
    }

    #[test]
    fn a_missing_device_is_an_error_with_advice() {
        let report = Report::examine(Path::new("/dev/no-such-device"));
        let value = json(&report);
        assert!(!report.can_run());
        assert_eq!(value["kvm"]["readable"], false);
        assert_eq!(value["kvm"]["api"], Value::Null);
        assert!(
            value["kvm"]["error"]
                .as_str()
                .unwrap()
                .starts_with("/dev/no-such-device: No such file")
        );
        assert!(!value["kvm"]["advice"].as_str().unwrap().is_empty());
        let table = report.table();
        assert!(
            table.starts_with("FAIL kvm") && table.contains("→ ") && table.contains("cannot run here"),
            "{table}"
        );
    }

    #[test]
    fn another_device_is_no_kvm() {
        let report = Report::examine(Path::new("/dev/null"));
        let value = json(&report);
        assert_eq!(
            (&value["kvm"]["readable"], &value["kvm"]["vm"]),
            (&Value::Bool(true), &Value::Bool(false))
        );
        assert_eq!(value["kvm"]["error"], "/dev/null: not a KVM device");
    }

    #[test]
    fn advice_fits_the_miss() {
        let advice =
            |kind: io::ErrorKind, cpu: &Cpu| opening_advice(&kind.into(), Path::new("/dev/null"), cpu);
        let denied = advice(io::ErrorKind::PermissionDenied, &Cpu::default());
        assert!(
            denied.contains("chgrp kvm /dev/null") && denied.contains("usermod -aG kvm $USER"),
            "{denied}"
        );
        if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() {
            return;
        }
        let cpu = |hypervisor, virtualization| Cpu {
            hypervisor,
            virtualization,
            ..Cpu::default()
        };
        let absent = |cpu: Cpu| advice(io::ErrorKind::NotFound, &cpu);
        assert!(absent(cpu(false, Some("kvm_amd"))).contains("modprobe kvm_amd"));
        assert!(absent(cpu(true, None)).contains("nested virtualization"));
        assert!(absent(cpu(false, None)).contains("firmware"));
    }

    #[test]
    fn the_clock_has_advice_where_guests_cannot_read_it() {
        let advice = |source, available, steady| Clock::judge(source, available, steady).advice;
        assert_eq!(advice("tsc", "tsc kvm-clock", true), None);
        assert_eq!(advice("tsc", "tsc", false), None);
        assert!(
            advice("kvm-clock", "kvm-clock tsc acpi_pm", true).is_some_and(|text| text.contains("echo tsc"))
        );
        assert!(advice("hpet", "hpet acpi_pm", true).is_some_and(|text| text.contains("dmesg")));
        assert!(advice("", "", false).is_some_and(|text| text.contains("no steady")));
        let here = Clock::read(&Cpu::read());
        assert!(here.available.contains(&here.source));
    }

    #[test]
    fn cpuinfo_is_read() {
        let cpu = Cpu::parse(
            "processor\t: 0\nmodel name\t: A CPU: 3 GHz\nflags\t\t: fpu svm hypervisor\n\nprocessor : 1\n",
        );
        assert_eq!(
            (cpu.name.as_str(), cpu.hypervisor, cpu.virtualization),
            ("A CPU: 3 GHz", true, Some("kvm_amd"))
        );
        let cpu = Cpu::parse("flags : vmxnet nosvm\n");
        assert_eq!(
            (cpu.name.as_str(), cpu.hypervisor, cpu.virtualization),
            ("unknown", false, None)
        );
    }
}
