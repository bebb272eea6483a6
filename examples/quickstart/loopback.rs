//! A provider's API in small, on a loopback port: it greets whoever the bearer token names. And the few lines of HTTP/1.1 to call it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub struct Server {
    address: SocketAddr,
}

impl Server {
    /// Listens on a free port until the program ends.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A caller that hangs up is its own affair.
                let _ = answer(&stream);
            }
        });
        Ok(Self { address })
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bearer = None;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            bearer = value.strip_prefix("Bearer ").map(str::to_owned);
        }
    }
    let (status, body) = match bearer {
        Some(token) => ("200 OK", format!("hello, {token}")),
        None => ("401 Unauthorized", "who are you?".to_owned()),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// Sends the request and returns status and body of the answer in one line.
pub fn send(request: &http::Request<()>) -> io::Result<String> {
    let uri = request.uri();
    let authority = uri.authority().ok_or_else(|| io::Error::other("the URI has no host"))?;
    let mut stream = TcpStream::connect(authority.as_str())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "{} {} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n", request.method(), uri.path())?;
    for (name, value) in request.headers() {
        stream.write_all(format!("{name}: ").as_bytes())?;
        stream.write_all(value.as_bytes())?;
        stream.write_all(b"\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no whole answer"))?;
    let status = head.split(' ').nth(1).ok_or_else(|| io::Error::other("no status"))?;
    Ok(format!("{status} {body}"))
}
