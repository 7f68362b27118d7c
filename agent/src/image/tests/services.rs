//! containerd, docker's registry, and a proxy that cuts connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
};
use tonic::transport::{Channel, Endpoint};

use super::fixture::Fixture;
use crate::image::manifest::digest_of;

/// A child that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file system of its own below a test, gone with it.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

pub struct Containerd {
    process: Process,
    _disk: Option<Disk>,
    pub dir: TempDir,
}

impl Containerd {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None).await
    }

    /// With so little room for content and snapshots.
    pub async fn on_small_disk(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let (flags, options) = (nix::mount::MsFlags::empty(), format!("size={bytes}"));
        nix::mount::mount(Some("tmpfs"), &root, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self::start_in(dir, Some(Disk(root))).await
    }

    async fn start_in(dir: TempDir, disk: Option<Disk>) -> Self {
        let path = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{path}/sock\"\n[ttrpc]\naddress = \"{path}/sock.ttrpc\"\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let containerd = Self { process: Self::spawn(&dir), _disk: disk, dir };
        containerd.ready().await;
        containerd
    }

    /// `kill -9`, then a new one on the same state.
    pub async fn crash(&mut self) {
        self.process = {
            self.process.0.kill().unwrap();
            self.process.0.wait().unwrap();
            Self::spawn(&self.dir)
        };
        self.ready().await;
    }

    fn spawn(dir: &TempDir) -> Process {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("-c").arg(dir.path().join("config.toml")).stdout(Stdio::null()).stderr(log);
        Process(command.spawn().expect("containerd is installed"))
    }

    pub fn channel(&self) -> Channel {
        let socket = self.dir.path().join("sock");
        Endpoint::from_static("http://containerd").connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
    }

    async fn ready(&self) {
        for _ in 0..300 {
            let mut client =
                containerd_client::services::v1::version_client::VersionClient::new(self.channel());
            if client.version(()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{}", std::fs::read_to_string(self.dir.path().join("log")).unwrap());
    }
}

pub struct Registry {
    /// Alive as long as the registry is wanted.
    _alive: (Process, TempDir),
    pub address: SocketAddr,
    auth: RegistryAuth,
}

impl Registry {
    pub async fn start() -> Self {
        Self::serve("", RegistryAuth::Anonymous).await
    }

    /// For user `me` with password `secret` only.
    pub async fn private() -> Self {
        let auth = "auth:\n  htpasswd:\n    realm: capsule\n    path: DIR/htpasswd\n";
        Self::serve(auth, RegistryAuth::Basic("me".into(), "secret".into())).await
    }

    async fn serve(auth_config: &str, auth: RegistryAuth) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let address = free_port().await;
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {path}/data\n\
             http:\n  addr: {address}\n{}",
            auth_config.replace("DIR", &path)
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        // bcrypt of "secret".
        std::fs::write(
            dir.path().join("htpasswd"),
            "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n",
        )
        .unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Process(process.expect("docker-registry is installed"));
        for _ in 0..200 {
            if TcpStream::connect(address).await.is_ok() {
                return Self { _alive: (process, dir), address, auth };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry does not listen on {address}");
    }

    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    async fn client(&self, reference: &Reference) -> Client {
        let config = ClientConfig { protocol: ClientProtocol::Http, ..Default::default() };
        let client = Client::new(config);
        client.auth(reference, &self.auth, RegistryOperation::Push).await.unwrap();
        client
    }

    /// Seeds an image.
    pub async fn push(&self, repository: &str, image: &Fixture) -> String {
        let name = self.name(repository);
        let reference: Reference = name.parse().unwrap();
        let client = self.client(&reference).await;
        for blob in image.layers.iter().chain([&image.config]) {
            client.push_blob(&reference, blob.clone(), &digest_of(blob)).await.unwrap();
        }
        self.push_manifest(&name, &image.manifest, "application/vnd.oci.image.manifest.v1+json").await;
        name
    }

    pub async fn push_manifest(&self, name: &str, text: &[u8], media_type: &str) {
        let reference: Reference = name.parse().unwrap();
        let client = self.client(&reference).await;
        client.push_manifest_raw(&reference, text.to_vec(), media_type.parse().unwrap()).await.unwrap();
    }
}

/// A port that was free a moment ago.
pub async fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// Forwards to a registry, slowly, counts what comes back and breaks off after a budget.
pub struct Proxy {
    pub address: SocketAddr,
    /// Bytes that came from the registry.
    pub passed: Arc<AtomicU64>,
    /// Bytes of one connection before it is cut.
    pub cut_after: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(to: SocketAddr, pause: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (passed, cut_after) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
        let (counter, limit) = (Arc::clone(&passed), Arc::clone(&cut_after));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, to, pause, Arc::clone(&counter), Arc::clone(&limit)));
            }
        });
        Self { address, passed, cut_after, task }
    }

    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }
}

async fn forward(
    client: TcpStream,
    to: SocketAddr,
    pause: Duration,
    passed: Arc<AtomicU64>,
    limit: Arc<AtomicU64>,
) {
    let Ok(server) = TcpStream::connect(to).await else { return };
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut client_reads, &mut server_writes).await });
    let (mut buffer, mut here) = (vec![0; 64 << 10], 0);
    while let Ok(read @ 1..) = server_reads.read(&mut buffer).await {
        here += read as u64;
        passed.fetch_add(read as u64, SeqCst);
        if client_writes.write_all(&buffer[..read]).await.is_err() || here > limit.load(SeqCst) {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    up.abort();
}
