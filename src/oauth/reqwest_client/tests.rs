//! The client against a scripted server.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future::block_on;
use futures_util::stream;
use http::{Request, Response};

use super::server::{Server, closed_port, is_closed, respond};
use super::{InvalidCertificates, ReqwestClient};
use crate::oauth::http::{HttpClient as _, HttpError, HttpLimits, RequestBody, ResponseBody};

const SOON: HttpLimits = HttpLimits::new(Duration::from_secs(10));

fn get(url: &str) -> Request<RequestBody> {
    Request::get(url).body(RequestBody::empty()).unwrap()
}

fn send(client: &ReqwestClient, request: Request<RequestBody>, limits: HttpLimits) -> Result<Response<ResponseBody>, HttpError> {
    block_on(client.send(request, limits))
}

fn hello() -> Server {
    Server::start(|_, stream| respond(stream, "200 OK", "", "hello"))
}

async fn greeted(client: ReqwestClient, url: String) {
    let response = client.send(get(&url), SOON).await.unwrap();
    assert_eq!(response.into_body().bytes(5).await.unwrap(), "hello");
}

#[test]
fn it_works_under_every_executor() {
    let server = hello();
    let (client, url) = (ReqwestClient::new(), server.url("/"));
    block_on(greeted(client.clone(), url.clone()));
    smol::block_on(greeted(client.clone(), url.clone()));
    let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
    current.block_on(greeted(client.clone(), url.clone()));
    let threads = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    threads.block_on(async {
        let many: Vec<_> = (0..100).map(|_| tokio::spawn(greeted(client.clone(), url.clone()))).collect();
        for one in many {
            one.await.unwrap();
        }
    });
    assert_eq!(server.heads().len(), 103);
}

#[test]
fn dropping_the_last_clone_stops_the_thread_wherever_that_happens() {
    let server = hello();
    // Tells when the runtime is gone: it drops what ran on it.
    let ends = |client: &ReqwestClient| {
        let (running, gone) = mpsc::channel::<()>();
        let runtime = client.running().unwrap().runtime.as_ref().unwrap();
        drop(runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(running);
        }));
        gone
    };
    let is_gone =
        |gone: &mpsc::Receiver<()>| gone.recv_timeout(Duration::from_secs(10)) == Err(mpsc::RecvTimeoutError::Disconnected);

    let client = ReqwestClient::new();
    let gone = ends(&client);
    block_on(greeted(client.clone(), server.url("/")));
    // Inside of another runtime, where waiting would panic.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async move { drop(client) });
    assert!(is_gone(&gone));

    // On its own thread.
    let client = ReqwestClient::new();
    let gone = ends(&client);
    let handle = client.running().unwrap().runtime.as_ref().unwrap().handle().clone();
    handle.spawn(async move { drop(client) });
    assert!(is_gone(&gone));

    // A body that is still read keeps it.
    let client = ReqwestClient::new();
    let gone = ends(&client);
    let response = send(&client, get(&server.url("/")), SOON).unwrap();
    drop(client);
    assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Empty));
    assert_eq!(block_on(response.into_body().bytes(5)).unwrap(), "hello");
    assert!(is_gone(&gone));
}

#[test]
fn a_client_that_was_never_used_starts_nothing() {
    let client = ReqwestClient::new();
    assert!(client.0.running.get().is_none());
    assert!(format!("{client:?}").contains("running: false"));
}

#[test]
fn a_redirect_is_an_answer() {
    let server = Server::start(|_, stream| respond(stream, "302 Found", "location: /elsewhere\r\n", ""));
    let client = ReqwestClient::new();
    let response = send(&client, get(&server.url("/")), SOON).unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "/elsewhere");
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn a_request_goes_out_as_it_is() {
    let server = Server::start(|_, stream| respond(stream, "200 OK", "set-cookie: a=b\r\n", ""));
    let client = ReqwestClient::new();
    let request = || {
        Request::post(server.url("/p%20q?x=y&x=z"))
            .header("authorization", "Bearer t")
            .header("X-Own", "1")
            .body(RequestBody::from("a=b"))
            .unwrap()
    };
    for _ in 0..2 {
        assert_eq!(send(&client, request(), SOON).unwrap().status(), 200);
    }
    let expected = format!(
        "POST /p%20q?x=y&x=z HTTP/1.1\r\nauthorization: Bearer t\r\nx-own: 1\r\naccept: */*\r\nhost: {}\r\ncontent-length: 3\r\n\r\na=b",
        server.address
    );
    for head in server.heads() {
        assert_eq!(head, expected);
    }
    let none = format!("GET / HTTP/1.1\r\naccept: */*\r\nhost: {}\r\n\r\n", server.address);
    send(&client, get(&server.url("/")), SOON).unwrap();
    assert_eq!(server.heads()[2], none);
}

#[test]
fn a_streamed_body_is_sent_and_its_error_told() {
    let server = Server::start(|head, stream| {
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut body = Vec::new();
        while !body.ends_with(b"0\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return false;
            }
            body.push(byte[0]);
        }
        respond(stream, "200 OK", "", &String::from_utf8(body).unwrap())
    });
    let client = ReqwestClient::new();
    let streamed = |last| {
        let pieces = [Ok(Bytes::from_static(b"abc")), last];
        Request::post(server.url("/")).body(RequestBody::from_stream(stream::iter(pieces))).unwrap()
    };
    let response = send(&client, streamed(Ok(Bytes::from_static(b"de"))), SOON).unwrap();
    assert_eq!(block_on(response.into_body().bytes(100)).unwrap(), "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let broken = streamed(Err(std::io::Error::other("broken")));
    assert_eq!(send(&client, broken, SOON).unwrap_err(), HttpError::RequestBody);
}

#[test]
fn what_can_t_be_reached_is_told() {
    let client = ReqwestClient::builder().connect_timeout(Duration::from_millis(500)).build();
    let refused = send(&client, get(&format!("http://{}/", closed_port())), SOON).unwrap_err();
    assert_eq!(refused, HttpError::Unreachable);
    assert!(refused.was_not_sent());
    // A name that can't be (RFC 6761 section 6.4), and no answer about it in time.
    assert_eq!(send(&client, get("http://nobody.invalid/"), SOON).unwrap_err(), HttpError::Unreachable);
}

#[test]
fn what_is_no_plain_address_is_not_sent() {
    let client = ReqwestClient::new();
    // Another parser reads 127.1 as 127.0.0.1.
    for url in ["/path", "http://user:secret@127.0.0.1/", "http://127.1/", "http://0x7f000001/", "ftp://127.0.0.1/"] {
        assert_eq!(send(&client, get(url), SOON).unwrap_err(), HttpError::InvalidRequest, "{url}");
    }
}

#[test]
fn ten_megabytes_are_cut_at_the_limit() {
    let server = Server::start(|head, stream| {
        let declared = head.starts_with("GET /declared");
        let length = if declared { "content-length: 10485760\r\n\r\n" } else { "connection: close\r\n\r\n" };
        let mut sent = stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}").as_bytes());
        for _ in 0..10 * 1024 {
            sent = sent.and_then(|()| stream.write_all(&[b'x'; 1024]));
        }
        assert!(sent.is_err(), "all was taken");
        false
    });
    let client = ReqwestClient::new();
    let limits = SOON.max_response_bytes(64 * 1024);
    for path in ["/declared", "/undeclared"] {
        let mut body = send(&client, get(&server.url(path)), limits).unwrap().into_body();
        let mut read = 0;
        let error = loop {
            match block_on(body.chunk()) {
                Ok(chunk) => read += chunk.unwrap().len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error, HttpError::TooLarge, "{path}");
        assert!(read <= 64 * 1024, "{path}: {read}");
    }
}

#[test]
fn a_body_that_fits_exactly_is_whole() {
    let server = hello();
    let client = ReqwestClient::new();
    let response = send(&client, get(&server.url("/")), SOON.max_response_bytes(5)).unwrap();
    assert_eq!(block_on(response.into_body().bytes(5)).unwrap(), "hello");
    let response = send(&client, get(&server.url("/")), SOON.max_response_bytes(4)).unwrap();
    assert_eq!(block_on(response.into_body().bytes(5)).unwrap_err(), HttpError::TooLarge);
}

#[test]
fn the_time_ends_a_dribble_and_a_silence() {
    let server = Server::start(|head, stream| {
        if head.starts_with("GET /silence") {
            return !is_closed(stream);
        }
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n");
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(50));
            sent = stream.write_all(b"x");
        }
        false
    });
    let client = ReqwestClient::new();
    let limits = HttpLimits::new(Duration::from_millis(400));
    let started = Instant::now();
    assert_eq!(send(&client, get(&server.url("/silence")), limits).unwrap_err(), HttpError::TimedOut);
    let response = send(&client, get(&server.url("/dribble")), limits).unwrap();
    assert_eq!(block_on(response.into_body().bytes(1000)).unwrap_err(), HttpError::TimedOut);
    assert!(started.elapsed() > Duration::from_millis(700) && started.elapsed() < Duration::from_secs(8));
    // No end in sight is no fault of the timer's.
    let hello = hello();
    assert_eq!(send(&client, get(&hello.url("/")), HttpLimits::new(Duration::MAX)).unwrap().status(), 200);
}

#[test]
fn dropping_the_future_or_the_body_ends_the_exchange() {
    let (closed, seen) = mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    let server = Server::start(move |head, stream| {
        if head.starts_with("GET /body") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx").unwrap();
        }
        let is_closed = is_closed(stream);
        closed.lock().unwrap().send(is_closed).unwrap();
        false
    });
    let client = ReqwestClient::new();
    let future = client.send(get(&server.url("/future")), SOON);
    block_on(futures_lite::future::or(async { drop(future.await) }, async {
        while server.heads().is_empty() {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    }));
    assert_eq!(seen.recv_timeout(Duration::from_secs(5)), Ok(true));
    let mut body = send(&client, get(&server.url("/body")), SOON).unwrap().into_body();
    assert_eq!(block_on(body.chunk()).unwrap().unwrap(), "x");
    drop(body);
    assert_eq!(seen.recv_timeout(Duration::from_secs(5)), Ok(true));
}

#[test]
fn an_answer_that_breaks_off_or_is_none_is_an_interruption() {
    let server = Server::start(|head, stream| {
        let answer: &[u8] = if head.starts_with("GET /half") {
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
        } else if head.starts_with("GET /garbage") {
            b"\x15\x03\x01 what?\r\n\r\n"
        } else {
            b""
        };
        stream.write_all(answer).unwrap();
        false
    });
    let client = ReqwestClient::new();
    for path in ["/nothing", "/garbage"] {
        assert_eq!(send(&client, get(&server.url(path)), SOON).unwrap_err(), HttpError::Interrupted, "{path}");
    }
    let response = send(&client, get(&server.url("/half")), SOON).unwrap();
    assert_eq!(block_on(response.into_body().bytes(1000)).unwrap_err(), HttpError::Interrupted);
    // Each was sent once.
    assert_eq!(server.heads().len(), 3);
}

#[test]
fn only_trusted_certificates_for_the_right_name_are_taken() {
    let (server, pem) = Server::start_tls("localhost", |_, stream| respond(stream, "200 OK", "", "hello"));
    let url = format!("https://localhost:{}/", server.address.port());
    let other_name = format!("https://127.0.0.1:{}/", server.address.port());
    let trusting = ReqwestClient::builder().add_root_certificates(pem.as_bytes()).unwrap().build();
    let response = send(&trusting, get(&url), SOON).unwrap();
    assert_eq!(block_on(response.into_body().bytes(5)).unwrap(), "hello");
    assert_eq!(send(&trusting, get(&other_name), SOON).unwrap_err(), HttpError::Tls);
    assert_eq!(send(&ReqwestClient::new(), get(&url), SOON).unwrap_err(), HttpError::Tls);
    // No TLS at all.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let not_tls = format!("https://localhost:{}/", plain.local_addr().unwrap().port());
    thread::spawn(move || plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    assert_eq!(send(&trusting, get(&not_tls), SOON).unwrap_err(), HttpError::Tls);
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn unusable_root_certificates_are_refused() {
    let add = |pem: &str| ReqwestClient::builder().add_root_certificates(pem.as_bytes()).map(drop);
    assert_eq!(add(""), Err(InvalidCertificates::None));
    assert_eq!(add("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), Err(InvalidCertificates::None));
    assert_eq!(add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Err(InvalidCertificates::Unreadable));
    assert_eq!(add("-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"), Err(InvalidCertificates::Unreadable));
}
