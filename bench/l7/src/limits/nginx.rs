//! A real nginx, which answers by itself what it is asked.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    directory: PathBuf,
    child: Child,
}

impl Nginx {
    pub(super) fn start() -> Result<Self, Failure> {
        // Nobody else is given that port before nginx has it, short of a race that its start would tell of.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let directory = std::env::temp_dir().join(format!("trackbed-limits-nginx-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let at = directory.display();
        let temporary: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};")).concat();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr error; events {{ worker_connections 4096; }}
            http {{ access_log off; {temporary} keepalive_requests 1000000; server {{ listen {address}; location / {{ return 200 ok; }} }} }}"
        );
        fs::write(directory.join("conf"), config)?;
        let conf = directory.join("conf");
        let child = Command::new("nginx").arg("-p").arg(&directory).arg("-c").arg(conf).args(["-e", "stderr"]).stdin(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("nginx: {error}; it is a package of debian/run.txt"))?;
        let nginx = Self { address, directory, child };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("nginx does not listen".into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself, and what is left of it is in the way of nobody.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
