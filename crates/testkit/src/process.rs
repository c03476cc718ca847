//! A binary of this workspace as a process: with its environment, its log and its end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::child::LeashedChild;
use crate::http::{self, Answer};
use crate::stale;

/// Variables that a process is given from the test's own environment; all others are the test's
/// to set, so that no address of a developer's shell reaches it.
const INHERITED: [&str; 6] = [
    "PATH",
    "HOME",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "LLVM_PROFILE_FILE",
    "LD_LIBRARY_PATH",
];

/// The top folder of this workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the top")
        .to_path_buf()
}

/// Where cargo has put the binary `name`: beside the running test. Panics when it was built from
/// older sources than there are now: it would test what is gone.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its own file");
    let path = test
        .ancestors()
        .skip(1)
        .map(|folder| folder.join(name))
        .take(2)
        .find(|path| path.is_file());
    let path = path.unwrap_or_else(|| {
        panic!(
            "{name} is not built beside {}: run `cargo build --workspace` first",
            test.display()
        )
    });
    if let Some(newer) = stale::changed_since_built(&path) {
        panic!(
            "{} is older than {}: run `cargo build --workspace` first",
            path.display(),
            newer.display()
        );
    }
    path
}

/// How a process is to be run.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    binary: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    port: u16,
}

impl ProcessPlan {
    /// The workspace's binary `name`, whose health is asked for on `port` of the loopback address.
    pub fn new(name: &str, port: u16) -> Self {
        Self::program(binary(name), port)
    }

    /// The same for any program.
    pub fn program(path: impl Into<PathBuf>, port: u16) -> Self {
        Self {
            binary: path.into(),
            arguments: Vec::new(),
            variables: Vec::new(),
            port,
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable in its environment, which is else nearly empty.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// With several variables.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(self) -> Process {
        let dir = tempfile::Builder::new()
            .prefix("bm-process-")
            .tempdir()
            .expect("a temporary folder can be made");
        let mut process = Process {
            plan: self,
            child: None,
            dir,
        };
        process.start_again();
        process
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    plan: ProcessPlan,
    // Before `dir`: the process ends before its folder is removed.
    child: Option<LeashedChild>,
    dir: TempDir,
}

impl Process {
    /// Its process id; 0 when it was killed or has been waited for.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, LeashedChild::id)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.plan.port)
    }

    /// All it has printed, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The file it prints to.
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    /// `GET path` from its port.
    pub async fn get(&self, path: &str) -> Option<Answer> {
        http::get(&self.address(), path).await
    }

    /// Waits until `/readyz` answers 200; panics with the end of the log when the process ends
    /// before, or when `deadline` has passed.
    pub async fn wait_ready(&mut self, deadline: Duration) {
        let started = std::time::Instant::now();
        let mut last = None;
        while started.elapsed() < deadline {
            if let Some(status) = self.child.as_mut().and_then(LeashedChild::try_wait) {
                panic!(
                    "{} ended with {status}; it said:\n{}",
                    self.name(),
                    tail(&self.log())
                );
            }
            last = self.get("/readyz").await.or(last);
            if last.as_ref().is_some_and(|answer| answer.status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "{} was not ready within {deadline:?} (last answer: {last:?}); it said:\n{}",
            self.name(),
            tail(&self.log())
        );
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().is_none())
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill();
        }
    }

    /// Asks it to end (SIGTERM); [`Process::wait`] says how it did.
    pub fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// Sends any signal by its name, such as `INT`.
    pub fn signal(&mut self, name: &str) {
        if let Some(child) = &mut self.child {
            child.signal(name);
        }
    }

    /// Stops it where it stands (SIGSTOP).
    pub fn pause(&mut self) {
        self.signal("STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) {
        self.signal("CONT");
    }

    /// Waits for its end; panics with the end of the log when it runs longer than `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let Some(child) = &mut self.child else {
            panic!("{} was killed before it was waited for", self.name());
        };
        match child.wait(deadline).await {
            Some(status) => status,
            None => panic!(
                "{} still runs after {deadline:?}; it said:\n{}",
                self.name(),
                tail(&self.log())
            ),
        }
    }

    /// Kills it if it runs, and starts it again with the same plan.
    pub fn start_again(&mut self) {
        self.kill();
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("a log file can be made");
        let errors = output.try_clone().expect("a file handle can be copied");
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut command = Command::new(&self.plan.binary);
        command
            .args(&self.plan.arguments)
            .env_clear()
            .envs(inherited)
            .envs(
                self.plan
                    .variables
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            // Where there is no `.env`.
            .current_dir(self.dir.path())
            .stdout(Stdio::from(output))
            .stderr(Stdio::from(errors));
        let child = LeashedChild::spawn(&mut command)
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.plan.binary.display()));
        self.child = Some(child);
    }

    fn name(&self) -> String {
        self.plan
            .binary
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }
}

/// The last lines of a log, for a panic message.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        ProcessPlan::program("/bin/bash", crate::free_port())
            .arg("-c")
            .arg(script)
            .env("BM_GREETING", "hello")
            .spawn()
    }

    #[tokio::test]
    async fn a_process_has_its_variables_and_no_others() {
        let mut process = shell("echo $BM_GREETING ${CARGO_MANIFEST_DIR-none}; exit 3");
        let status = process.wait(Duration::from_secs(5)).await;
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log(), "hello none\n");
    }

    #[tokio::test]
    async fn a_terminated_process_may_say_goodbye() {
        let mut process =
            shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        crate::eventually(Duration::from_secs(5), "its first word", || {
            let up = process.log().contains("up");
            async move { up.then_some(()) }
        })
        .await;
        process.terminate();
        assert!(process.wait(Duration::from_secs(5)).await.success());
        assert_eq!(process.log(), "up\nbye\n");
    }

    #[tokio::test]
    async fn a_killed_process_can_be_started_again() {
        let mut process = shell("exec sleep 600");
        let first = process.id();
        process.kill();
        assert!(!process.runs());
        process.start_again();
        assert!(process.runs());
        assert_ne!(process.id(), first);
    }

    #[tokio::test]
    #[should_panic(expected = "no such day")]
    async fn what_a_process_said_before_it_ended_is_in_the_panic() {
        shell("echo no such day; exit 1")
            .wait_ready(Duration::from_secs(5))
            .await;
    }

    #[tokio::test]
    #[should_panic(expected = "was not ready within")]
    async fn waiting_for_readiness_is_bounded() {
        shell("exec sleep 600")
            .wait_ready(Duration::from_millis(50))
            .await;
    }
}
