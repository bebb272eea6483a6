//! A scripted loopback server for tests: plain or TLS, one thread per connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(super) trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Writes an answer to a request's head; `false` closes the connection.
type Script = dyn Fn(&str, &mut dyn Connection) -> bool + Send + Sync;

pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// The head of each request, in the order of arrival.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(script: impl Fn(&str, &mut dyn Connection) -> bool + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(script))
    }

    /// With a certificate of its own for `name`, which is given back in PEM.
    pub(super) fn start_tls(
        name: &str,
        script: impl Fn(&str, &mut dyn Connection) -> bool + Send + Sync + 'static,
    ) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, made.cert.der());
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        (Self::listen(Some(Arc::new(config)), Arc::new(script)), pem)
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn listen(tls: Option<Arc<ServerConfig>>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (tls, script, seen) = (tls.clone(), Arc::clone(&script), Arc::clone(&seen));
                let stream = stream.unwrap();
                thread::spawn(move || match tls {
                    None => serve(stream, &*script, &seen),
                    Some(config) => serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream), &*script, &seen),
                });
            }
        });
        Self { address, heads }
    }
}

fn serve(mut connection: impl Connection, script: &Script, seen: &Mutex<Vec<String>>) {
    while let Some(head) = read_head(&mut connection) {
        seen.lock().unwrap().push(head.clone());
        if !script(&head, &mut connection) {
            return;
        }
    }
}

/// The head of the next request and, if it says how long it is, its body.
fn read_head(connection: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if connection.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap();
    let lower = text.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length];
    connection.read_exact(&mut body).ok()?;
    Some(text + std::str::from_utf8(&body).unwrap())
}

/// Whether the other side has closed the connection; waits until it has, or sends something.
pub(super) fn is_closed(stream: &mut dyn Connection) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1))
}

/// An answer with `body` as a whole.
pub(super) fn respond(stream: &mut dyn Connection, status: &str, fields: &str, body: &str) -> bool {
    write!(stream, "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).is_ok()
}

/// A port at which nothing listens.
pub(super) fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // A connection that was accepted once keeps the port from being given to another listener for a while.
    drop(TcpStream::connect(address).unwrap());
    address
}
