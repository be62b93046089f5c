//! `trackbed-cni rescue`: frees a node whose daemon and API server are gone. Needs nothing but the kernel and root, and the host's iptables
//! where that made the rules.
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::tables::{errors, paths};

mod iptables;
mod namespaces;
mod netlink;
mod rules;

const USAGE: u8 = 64;

const HELP: &str = "trackbed-cni: Trackbed's CNI plugin. A container runtime starts it; people use it to free a node.

usage:
  trackbed-cni rescue [options]     take the mesh off this node, without daemon and API server:
                                    its CNI configuration is removed, then the rules in every pod's network namespace and on the host
      --netns PATH                  only this network namespace; the CNI configuration stays (may be given again)
      --plugin                      remove the plugin itself too. Not while pods live that a runtime made with it and will delete with it (CRI-O)
      --force                       even while a daemon answers; it will capture enrolled pods again
      --cni-conf DIR                where the node's CNI configuration is   [/etc/cni/net.d]
      --cni-bin DIR                 where its plugins are                   [/opt/cni/bin]
      --run DIR                     the directory of daemon and engine      [/run/trackbed]
      --proc DIR                    where the node's processes are seen     [/proc]
      --named DIR                   where its network namespaces have names [/run/netns]

Captured connections end; new ones go direct, in clear. Exit status: 0 the node is free, 1 something is left (said line by line), 64 wrong usage.";

#[derive(Debug)]
struct Options {
    netns: Vec<PathBuf>,
    plugin: bool,
    force: bool,
    conf: PathBuf,
    bin: PathBuf,
    run: PathBuf,
    proc: PathBuf,
    named: PathBuf,
}

pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match parse(arguments) {
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(options)) if rescue(&options) => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("trackbed-cni: {error}; see trackbed-cni --help");
            ExitCode::from(USAGE)
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut verb = None;
    let mut options = Options {
        netns: Vec::new(),
        plugin: false,
        force: false,
        conf: paths::CNI_CONF.into(),
        bin: paths::CNI_BIN.into(),
        run: paths::RUN.into(),
        proc: "/proc".into(),
        named: "/run/netns".into(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Long("netns") => options.netns.push(parser.value()?.into()),
            Long("plugin") => options.plugin = true,
            Long("force") => options.force = true,
            Long("cni-conf") => options.conf = parser.value()?.into(),
            Long("cni-bin") => options.bin = parser.value()?.into(),
            Long("run") => options.run = parser.value()?.into(),
            Long("proc") => options.proc = parser.value()?.into(),
            Long("named") => options.named = parser.value()?.into(),
            Value(word) if verb.is_none() => verb = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    match verb.as_deref() {
        Some("rescue") => Ok(Some(options)),
        Some(other) => Err(format!("unknown command {other:?}").into()),
        None => Err("CNI_COMMAND is not set and no command is given".into()),
    }
}

/// True when nothing of ours is left.
fn rescue(options: &Options) -> bool {
    let socket = options.run.join(paths::CNI_SOCKET);
    if !options.force && std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        eprintln!(
            "a daemon answers at {} and would capture the pods again: take them out by their labels (trackbed unenrol), stop the daemon, or say --force ({})",
            socket.display(),
            errors::USAGE
        );
        return false;
    }
    let mut free = true;
    let mut tell = |what: &str, done: io::Result<bool>| match done {
        Ok(true) => println!("removed  {what}"),
        Ok(false) => {}
        Err(error) => {
            free = false;
            println!("LEFT     {what}: {error}");
        }
    };
    if options.netns.is_empty() {
        // First, so that the pods whose start it refuses come up while the rest is done.
        tell("the CNI configuration", remove_file(&options.conf.join(paths::CNI_CONFLIST)));
        if options.plugin {
            tell("the CNI plugin", remove_file(&options.bin.join(paths::CNI_PLUGIN)));
        }
        tell("the host's rules for kubelet probes", rules::remove_host());
    }
    let found = if options.netns.is_empty() { namespaces::all(&options.proc, &options.named) } else { Ok((options.netns.clone(), None)) };
    match found {
        Ok((found, unseen)) => {
            for path in found {
                tell(&format!("the rules in {}", path.display()), rules::remove(&path));
            }
            if let Some(error) = unseen {
                tell("the rules in the pods: not every process's namespace can be seen", Err(error));
            }
        }
        Err(error) => tell(&format!("the rules in the pods: {} cannot be read", options.proc.display()), Err(error)),
    }
    println!("{}", if free { "this node is free of Trackbed" } else { "something is LEFT, see above; run this again as root of the host" });
    free
}

fn remove_file(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
