//! Takes TCP connections that are no OpenVPN client's to another server (`port-share`): one thread with a small runtime,
//! which opens a connection to that server for each and copies both ways.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream as StdStream, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::path::normalise;

/// Connections that are proxied at a time. Each has two files and two buffers of [`BUFFER`].
const MOST: usize = 1024;
/// Connections that wait to be taken; the thread only has to look at them.
const QUEUE: usize = 256;
/// Bytes copied at a time.
const BUFFER: usize = 16 * 1024;
/// Longest time until the other server answers: OpenVPN's.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When one side has ended, how long the other may still send.
const LINGER: Duration = Duration::from_secs(60);

/// Where connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSpec {
    /// Name or address of the other server; looked up once.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Folder for files that say where each proxied connection comes from. The name of a file is the address of our end of
    /// the connection to the other server, its content the client's address, and it is there as long as the connection.
    pub directory: Option<PathBuf>,
}

/// The running proxy; dropping it ends its connections and its thread.
#[derive(Debug)]
pub struct PortShare {
    handle: ShareHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Hands connections to the proxy.
#[derive(Debug, Clone)]
pub struct ShareHandle {
    queue: mpsc::Sender<Foreign>,
    counters: Arc<ShareCounters>,
}

/// What the proxy has seen.
#[derive(Debug, Default)]
pub struct ShareCounters {
    /// Connections taken to the other server.
    pub proxied: AtomicU64,
    /// Those among them that still live.
    pub active: AtomicU64,
    /// Connections closed because too many were proxied or waited.
    pub refused: AtomicU64,
    /// Connections closed because the other server did not answer.
    pub unanswered: AtomicU64,
    /// Bytes from clients, those read before among them.
    pub to_server: AtomicU64,
    /// Bytes to clients.
    pub to_client: AtomicU64,
}

/// A connection on its way to the proxy.
#[derive(Debug)]
struct Foreign {
    stream: StdStream,
    first: Vec<u8>,
}

impl PortShare {
    /// Looks the host up and starts the thread.
    ///
    /// # Errors
    /// The host has no address, the folder is none, or the thread cannot be made.
    pub fn start(spec: &ShareSpec) -> io::Result<Self> {
        Self::start_with(spec, MOST)
    }

    fn start_with(spec: &ShareSpec, most: usize) -> io::Result<Self> {
        let named =
            |e: &io::Error| io::Error::new(e.kind(), format!("port-share {} {}: {e}", spec.host, spec.port));
        let to: Arc<[SocketAddr]> =
            (spec.host.as_str(), spec.port).to_socket_addrs().map_err(|e| named(&e))?.collect();
        if to.is_empty() {
            return Err(named(&io::Error::new(io::ErrorKind::NotFound, "no address")));
        }
        if let Some(directory) = &spec.directory
            && !directory.is_dir()
        {
            let message = format!("{} is not a folder", directory.display());
            return Err(named(&io::Error::new(io::ErrorKind::NotADirectory, message)));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, foreigners) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let handle = ShareHandle { queue, counters: Arc::default() };
        let proxy =
            Proxy { to, directory: spec.directory.clone().map(Arc::from), counters: handle.counters() };
        let thread = Builder::new()
            .name("port-share".to_owned())
            .spawn(move || runtime.block_on(proxy.run(foreigners, stopped, most)))?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// A handle for workers.
    #[must_use]
    pub fn handle(&self) -> ShareHandle {
        self.handle.clone()
    }
}

impl Drop for PortShare {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl ShareHandle {
    /// Hands over a connection with what was read from it. Never waits; false, and the connection is closed, when too many
    /// wait already.
    pub fn hand_over(&self, stream: StdStream, first: &[u8]) -> bool {
        let sent = self.queue.try_send(Foreign { stream, first: first.to_vec() }).is_ok();
        if !sent {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// What the proxy has seen.
    #[must_use]
    pub fn counters(&self) -> Arc<ShareCounters> {
        Arc::clone(&self.counters)
    }
}

/// What each proxied connection needs.
#[derive(Debug, Clone)]
struct Proxy {
    to: Arc<[SocketAddr]>,
    directory: Option<Arc<Path>>,
    counters: Arc<ShareCounters>,
}

impl Proxy {
    /// Takes connections until it is told to stop; what is under way then is dropped.
    async fn run(
        self,
        mut foreigners: mpsc::Receiver<Foreign>,
        mut stopped: oneshot::Receiver<()>,
        most: usize,
    ) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                _ = &mut stopped => return,
                Some(_) = running.join_next(), if !running.is_empty() => {}
                foreign = foreigners.recv() => {
                    let Some(foreign) = foreign else { return };
                    if running.len() >= most {
                        self.counters.refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let proxy = self.clone();
                    running.spawn(async move {
                        if let Err(error) = proxy.serve(foreign).await {
                            debug!("port-share: {error}");
                        }
                    });
                }
            }
        }
    }

    async fn serve(&self, foreign: Foreign) -> io::Result<()> {
        let counters = &*self.counters;
        foreign.stream.set_nonblocking(true)?;
        let mut client = TcpStream::from_std(foreign.stream)?;
        let peer = client.peer_addr()?;
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&*self.to)).await;
        let Ok(Ok(mut server)) = connected else {
            counters.unanswered.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        counters.proxied.fetch_add(1, Ordering::Relaxed);
        let _active = Active::new(counters);
        for stream in [&client, &server] {
            // Only for speed, and to find out in the end that a side has vanished.
            let _ = stream.set_nodelay(true);
            let _ = SockRef::from(stream).set_keepalive(true);
        }
        // Before the first byte, so that the other server can look as soon as it has something to look for.
        let _origin = match &self.directory {
            Some(directory) => OriginFile::write(directory, server.local_addr()?, peer),
            None => None,
        };
        server.write_all(&foreign.first).await?;
        counters.to_server.fetch_add(foreign.first.len() as u64, Ordering::Relaxed);
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let mut up = pin!(copy(from_client, to_server, &counters.to_server));
        let mut down = pin!(copy(from_server, to_client, &counters.to_client));
        let rest = tokio::select! {
            ended = &mut up => { ended?; timeout(LINGER, down).await }
            ended = &mut down => { ended?; timeout(LINGER, up).await }
        };
        rest.unwrap_or(Ok(()))
    }
}

/// Copies until the end of one side, and tells the other.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counter: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = from.read(&mut buffer).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..len]).await?;
        counter.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Counts a connection while it lives.
struct Active<'a>(&'a ShareCounters);

impl<'a> Active<'a> {
    fn new(counters: &'a ShareCounters) -> Self {
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file that says where a proxied connection comes from; removed with it.
struct OriginFile(PathBuf);

impl OriginFile {
    /// Writes it. The connection is served without it, too, as OpenVPN does: the folder may be full.
    fn write(directory: &Path, ours: SocketAddr, client: SocketAddr) -> Option<Self> {
        let file = Self(directory.join(text(ours)));
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            // One of that name is of a run that crashed.
            .truncate(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&file.0);
        match opened.and_then(|mut opened| opened.write_all(text(client).as_bytes())) {
            Ok(()) => Some(file),
            Err(error) => {
                warn!("port-share: {}: {error}", file.0.display());
                None
            }
        }
    }
}

impl Drop for OriginFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// An address as OpenVPN writes it.
fn text(address: SocketAddr) -> String {
    let address = normalise(address);
    let family = if address.is_ipv4() { "[AF_INET]" } else { "[AF_INET6]" };
    format!("{family}{}:{}", address.ip(), address.port())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Longest wait in steps of 5 ms; only reached by a failing test.
    const PATIENCE: u32 = 400;

    struct Site {
        share: PortShare,
        server: TcpListener,
        folder: tempfile::TempDir,
    }

    fn site(most: usize) -> Site {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = server.local_addr().unwrap().port();
        let directory = Some(folder.path().to_owned());
        let spec = ShareSpec { host: "127.0.0.1".to_owned(), port, directory };
        Site { share: PortShare::start_with(&spec, most).unwrap(), server, folder }
    }

    /// Both ends of a connection: the stranger's, and ours.
    fn stranger() -> (StdStream, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (theirs, listener.accept().unwrap().0)
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..PATIENCE {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("not in time: {what}");
    }

    #[test]
    fn both_ways_with_a_file_that_says_where_from() {
        let site = site(4);
        let (mut theirs, ours) = stranger();
        let from = theirs.local_addr().unwrap();
        assert!(site.share.handle().hand_over(ours, b"GET "));
        let (mut server, proxy) = site.server.accept().unwrap();
        let mut got = [0; 6];
        theirs.write_all(b"/x").unwrap();
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"GET /x");
        let file = site.folder.path().join(format!("[AF_INET]127.0.0.1:{}", proxy.port()));
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("[AF_INET]{from}"));
        server.write_all(b"answer").unwrap();
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"answer");
        // A client that says no more still gets the rest of the answer.
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut got).unwrap(), 0);
        server.write_all(b"rest..").unwrap();
        drop(server);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"rest..");
        let counters = site.share.handle().counters();
        until("gone", || counters.active.load(Ordering::Relaxed) == 0);
        assert!(!file.exists());
        assert_eq!(counters.to_server.load(Ordering::Relaxed), 6);
        assert_eq!(counters.to_client.load(Ordering::Relaxed), 12);
    }

    #[test]
    fn too_many_are_turned_away_and_a_stop_ends_all() {
        let site = site(2);
        let counters = site.share.handle().counters();
        let mut kept = Vec::new();
        for _ in 0..2 {
            let (theirs, ours) = stranger();
            assert!(site.share.handle().hand_over(ours, b"x"));
            kept.push((theirs, site.server.accept().unwrap()));
        }
        until("both", || counters.active.load(Ordering::Relaxed) == 2);
        assert_eq!(fs::read_dir(site.folder.path()).unwrap().count(), 2);
        let (mut theirs, ours) = stranger();
        site.share.handle().hand_over(ours, b"x");
        assert_eq!(theirs.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(counters.refused.load(Ordering::Relaxed), 1);
        let handle = site.share.handle();
        drop(site.share);
        for (mut theirs, _) in kept {
            assert_eq!(theirs.read(&mut [0]).unwrap_or(0), 0);
        }
        assert_eq!(fs::read_dir(site.folder.path()).unwrap().count(), 0);
        assert!(!handle.hand_over(stranger().1, b""), "nobody is there any more");
    }

    #[test]
    fn a_server_that_does_not_answer_and_a_folder_that_is_none() {
        let Site { share, server, folder } = site(2);
        drop(server);
        let (mut theirs, ours) = stranger();
        assert!(share.handle().hand_over(ours, b"x"));
        assert_eq!(theirs.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(share.handle().counters().unanswered.load(Ordering::Relaxed), 1);
        // Without the folder a connection is served all the same.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let directory = Some(folder.path().to_owned());
        let spec = ShareSpec { host: "localhost".to_owned(), port, directory };
        let share = PortShare::start(&spec).unwrap();
        drop(folder);
        assert!(PortShare::start(&spec).unwrap_err().to_string().contains("is not a folder"));
        let (_theirs, ours) = stranger();
        assert!(share.handle().hand_over(ours, b"hello"));
        let mut got = [0; 5];
        server.accept().unwrap().0.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn addresses_are_written_as_openvpn_does() {
        for (address, written) in [
            ("192.0.2.1:443", "[AF_INET]192.0.2.1:443"),
            ("[::ffff:192.0.2.1]:443", "[AF_INET]192.0.2.1:443"),
            ("[2001:db8::1]:7", "[AF_INET6]2001:db8::1:7"),
        ] {
            assert_eq!(text(address.parse().unwrap()), written);
        }
    }
}
