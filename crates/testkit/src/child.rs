//! A child process that does not outlive the test process, however that ends.

use std::ffi::OsStr;
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A child and its watcher: a shell that waits for the end of its own standard input, which
/// comes when the test process is gone, and then kills the child.
#[derive(Debug)]
pub(crate) struct LeashedChild {
    child: Child,
    watcher: Option<Child>,
}

impl LeashedChild {
    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn()?;
        let watcher = Command::new("bash")
            .args(["-c", "cat >/dev/null; kill -KILL \"$1\"", "watcher"])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut this = Self {
            child,
            watcher: None,
        };
        // On failure `this` is dropped and takes the child with it.
        this.watcher = Some(watcher?);
        Ok(this)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.release_watcher();
        }
        status
    }

    /// Sends `signal` (a name such as `TERM`) to the process alone.
    pub(crate) fn signal(&mut self, signal: &str) {
        if self.try_wait().is_none() {
            send(signal, &[self.child.id()]);
        }
    }

    /// Sends `signal` to the process and to all that descend from it, itself first, so that a
    /// stopped parent starts no more of them meanwhile.
    pub(crate) fn signal_tree(&mut self, signal: &str) {
        if self.try_wait().is_none() {
            let mut family = vec![self.child.id()];
            if signal == "STOP" {
                send(signal, &family);
            }
            family.extend(descendants(self.child.id()));
            send(signal, &family);
        }
    }

    /// Waits until it has ended; `None` when it runs longer than `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if started.elapsed() >= limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills it with all that descend from it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if self.try_wait().is_none() {
            let mut family = descendants(self.child.id());
            // The parent first: it shall see no child die and start to clean up.
            let killed = self.child.kill();
            family.retain(|pid| *pid != self.child.id());
            send("KILL", &family);
            if killed.is_ok() {
                // An error says that it has been waited for already.
                let _already = self.child.wait();
            }
        }
        self.release_watcher();
    }

    /// The watcher must go as soon as the child is reaped: its pid may then be another's.
    fn release_watcher(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // The same: errors mean that it is gone.
            let _gone = watcher.kill();
            let _reaped = watcher.wait();
        }
    }
}

impl Drop for LeashedChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by the `kill` command; processes that have ended meanwhile do not matter.
fn send(signal: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let arguments: Vec<String> = pids.iter().map(u32::to_string).collect();
    // A builtin of every shell, where the program of that name need not be installed.
    Command::new("bash")
        .args([
            "-c",
            "signal=$1; shift; kill -s \"$signal\" \"$@\" 2>/dev/null || true",
            "kill",
        ])
        .arg(signal)
        .args(arguments.iter().map(OsStr::new))
        .stdin(Stdio::null())
        .status()
        .expect("bash can be run");
}

/// All that descend from `root` at this moment, parents before their children.
fn descendants(root: u32) -> Vec<u32> {
    let pairs: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The command's name in parentheses may hold anything: count from behind it.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, _) in pairs.iter().filter(|(_, of)| *of == parent) {
            found.push(*pid);
            parents.push(*pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> LeashedChild {
        LeashedChild::spawn(Command::new("bash").args(["-c", script])).unwrap()
    }

    fn runs(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('Z'))
        })
    }

    #[tokio::test]
    async fn killing_takes_the_children_of_the_child_too() {
        let mut child = shell("sleep 600 & sleep 600 & wait");
        let family = crate::eventually(Duration::from_secs(5), "two children", || {
            let found = descendants(child.id());
            async move { (found.len() == 2).then_some(found) }
        })
        .await;
        child.kill();
        for pid in family {
            crate::eventually(
                Duration::from_secs(5),
                "the end of a child",
                || async move { (!runs(pid)).then_some(()) },
            )
            .await;
        }
    }

    #[tokio::test]
    async fn a_child_ends_when_the_test_process_is_gone() {
        let mut child = shell("exec sleep 600");
        // The kernel closes the pipe when the process ends; dropping it is the same to the watcher.
        drop(child.watcher.as_mut().unwrap().stdin.take());
        let status = child.wait(Duration::from_secs(5)).await.unwrap();
        assert!(!status.success());
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_says_how_it_ended() {
        let mut child = shell("exec sleep 600");
        assert_eq!(child.wait(Duration::from_millis(30)).await, None);
        child.signal("TERM");
        assert!(child.wait(Duration::from_secs(5)).await.is_some());
    }
}
