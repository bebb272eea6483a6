//! A hundred thousand connections that are due in one minute, each refreshed once by the vault, against the bare HTTP client that makes
//! the same requests with the same number at once. The token endpoint is on loopback, in this process, for both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anchorhold::testing::{ManualClock, refresh_what_is_due};
use anchorhold::{
    Clock as _, Credential, HttpClient as _, HttpLimits, NewConnection, OAuth2Tokens, OAuthClient, OAuthSettings, ProviderName,
    ProviderSettings, RefreshProfile, RequestBody, ReqwestClient, Timestamp,
};
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Outcome, World, figure};

/// `ANCHORHOLD_STORM` for another number.
const CONNECTIONS: usize = 100_000;

/// How many requests the vault makes at once to a provider whose settings say nothing else.
const AT_ONCE: usize = 64;

/// A token endpoint that counts how often each refresh token came.
#[derive(Default)]
struct Endpoint {
    requests: AtomicU64,
    seen: Mutex<HashMap<String, u32>>,
}

pub fn refresh() {
    measure().expect("the storm of refreshes");
}

fn measure() -> Outcome<()> {
    let count = std::env::var("ANCHORHOLD_STORM").ok().and_then(|count| count.parse().ok()).unwrap_or(CONNECTIONS);
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
    let world = World::with(|builder| builder.clock(clock.clone()))?;
    let endpoint = Arc::new(Endpoint::default());
    let address = world.runtime.block_on(serve(Arc::clone(&endpoint)))?;
    prepare(&world, &clock, address, count)?;

    // All of them expire within one minute, so that all are in their margins a while before.
    let mut ratios = Vec::new();
    let mut rates = (0.0, 0.0);
    for round in 0..3 {
        clock.advance(Duration::from_secs(3_600 - 30));
        endpoint.seen.lock().expect("counted").clear();
        let begun = Instant::now();
        world.runtime.block_on(refresh_what_is_due(&world.vault))?;
        let ours = count as f64 / begun.elapsed().as_secs_f64();
        let seen = endpoint.seen.lock().expect("counted").clone();
        assert_eq!(seen.len(), count, "round {round}: every connection was refreshed");
        assert!(seen.values().all(|times| *times == 1), "round {round}: exactly one request each");
        let theirs = bare(&world, address, count)?;
        ratios.push(ours / theirs);
        rates = (ours, theirs);
    }
    figure("refresh_storm_per_s", rates.0, "refreshes/s");
    figure("refresh_storm_bare_client_per_s", rates.1, "requests/s");
    figure("refresh_storm_ratio", crate::world::median(&mut ratios), "x");
    Ok(())
}

/// One account for each connection, as customers have.
fn prepare(world: &World, clock: &Arc<ManualClock>, address: std::net::SocketAddr, count: usize) -> Outcome<()> {
    let provider = ProviderName::new("storm")?;
    let oauth =
        OAuthSettings::new(format!("http://{address}/token"))?.with_refresh_profile(RefreshProfile::new().with_rotation(false));
    let settings = ProviderSettings::new(provider.clone()).allow_host("api.example.com")?.oauth(oauth);
    let client = OAuthClient::new("bench")?.with_secret(SecretString::from("secret"))?;
    world.runtime.block_on(async {
        world.backend.set_provider(settings).await?;
        world.backend.set_oauth_client(&provider, client).await
    })?;
    let accounts = world.accounts(count)?;
    let now = clock.now();
    world.runtime.block_on(async {
        for (chunk_number, chunk) in accounts.chunks(256).enumerate() {
            let tasks: Vec<_> = chunk
                .iter()
                .enumerate()
                .map(|(at, account)| {
                    let number = chunk_number * 256 + at;
                    let expires =
                        now.plus(Duration::from_secs(3_570) + Duration::from_millis(number as u64 * 60_000 / count as u64));
                    let tokens = OAuth2Tokens::new(SecretString::from(format!("access-{number}")))
                        .refresh_token(SecretString::from(format!("refresh-{number}")))
                        .expires_at(expires);
                    let connection = NewConnection::new(provider.clone(), Credential::oauth2(tokens));
                    let account = account.clone();
                    tokio::spawn(async move { account.add_connection(connection).await.map(drop) })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
        }
        Outcome::Ok(())
    })
}

/// Requests per second of the client that the vault uses, without the vault.
fn bare(world: &World, address: std::net::SocketAddr, count: usize) -> Outcome<f64> {
    let client = ReqwestClient::new();
    world.runtime.block_on(async {
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let tasks: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (client, next) = (client.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count as u64 {
                            return Outcome::Ok(());
                        }
                        let request = http::Request::post(format!("http://{address}/token"))
                            .header("authorization", "Basic YmVuY2g6c2VjcmV0")
                            .header("accept", "application/json")
                            .header("content-type", "application/x-www-form-urlencoded")
                            .body(RequestBody::from(format!("grant_type=refresh_token&refresh_token=bare-{number}")))?;
                        let limits = HttpLimits::new(Duration::from_secs(20)).max_response_bytes(64 * 1024);
                        let response = client.send(request, limits).await?;
                        response.into_body().bytes(64 * 1024).await?;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    })
}

async fn serve(endpoint: Arc<Endpoint>) -> Outcome<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&endpoint)));
        }
    });
    Ok(address)
}

/// Answers the requests of one connection until its client hangs up.
async fn answer(mut stream: TcpStream, endpoint: Arc<Endpoint>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok()?,
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await.ok()?;
        let body = String::from_utf8(body).ok()?;
        let token = body.split('&').find_map(|pair| pair.strip_prefix("refresh_token="))?;
        let number = endpoint.requests.fetch_add(1, Ordering::Relaxed);
        if token.starts_with("refresh-") {
            *endpoint.seen.lock().ok()?.entry(token.to_owned()).or_default() += 1;
        }
        let answer = format!(r#"{{"access_token":"new-{number}","token_type":"Bearer","expires_in":3600}}"#);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        writer.write_all(head.as_bytes()).await.ok()?;
    }
}
