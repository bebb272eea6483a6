//! A token endpoint and an API in the parent's process, on loopback: what they say comes from the number that both processes know.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::stage::letter;

/// The secrets of each answer of the token endpoint: access token, refresh token. The one after them is an error.
const ANSWERS: [(&str, &str); 2] = [("access", "next refresh"), ("next access", "third refresh")];

/// Serves until this process ends; the port.
pub fn serve(seed: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut asked = 0;
        for stream in listener.incoming() {
            answer(stream.unwrap(), seed, &mut asked);
        }
    });
    port
}

fn answer(mut stream: TcpStream, seed: u64, asked: &mut usize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    let text = |what| String::from_utf8((0..64).map(|at| letter(seed, what, at)).collect()).unwrap();
    let (status, body) = if head.starts_with("POST /token ") {
        *asked += 1;
        match ANSWERS.get(*asked - 1) {
            Some((access, refresh)) => (
                "200 OK",
                format!(
                    r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600,"refresh_token":"{}"}}"#,
                    text(access),
                    text(refresh)
                ),
            ),
            None => ("400 Bad Request", r#"{"error":"invalid_grant"}"#.to_owned()),
        }
    } else {
        ("200 OK", "{}".to_owned())
    };
    let length = body.len();
    let whole = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    // The other side may have gone away.
    let _ = stream.write_all(whole.as_bytes());
}
