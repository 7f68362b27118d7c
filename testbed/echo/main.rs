//! What the fixtures' `scratch` image runs; the standard library is all it has.
//!
//! ```text
//! echo serve [--http PORT] [--tcp PORT] [--udp PORT] [--data DIR]   answers on these ports
//! echo lines COUNT [BYTES]     COUNT numbered lines on stdout and as many on stderr
//! echo exit CODE               ends at once
//! echo eat MIB                 takes memory and keeps it
//! ```
//!
//! HTTP: `/` who answers and whom; `/healthz`; `/env`; `/visits` a counter kept in DIR; `/get?HOST:PORT`
//! what HOST answers to this program.

mod answer;
mod signal;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::Duration,
};

/// Of one connection, without a byte.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    signal::end_on_terminate();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["serve", options @ ..] => serve(options),
        ["lines", count] => lines(count, "0"),
        ["lines", count, bytes] => lines(count, bytes),
        ["exit", code] => return ExitCode::from(code.parse().unwrap_or(2)),
        ["eat", mib] => eat(mib),
        _ => Err(io::Error::other("usage: echo serve|lines|exit|eat …")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(options: &[&str]) -> io::Result<()> {
    let option = |name: &str| options.iter().position(|o| *o == name).and_then(|at| options.get(at + 1));
    let port = |name: &str| option(name).map(|text| number::<u16>(text)).transpose();
    let data = option("--data").map_or_else(|| "/data".to_owned(), |dir| (*dir).to_owned());
    let (tcp, udp, http) = (port("--tcp")?, port("--udp")?, port("--http")?);
    let mut servers = Vec::new();
    if let Some(port) = tcp {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        servers.push(thread::spawn(move || each_connection(&listener, echo)));
    }
    if let Some(port) = udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        servers.push(thread::spawn(move || echo_datagrams(&socket)));
    }
    if let Some(port) = http {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        servers.push(thread::spawn(move || {
            each_connection(&listener, move |stream| answer::http(stream, &data));
        }));
    }
    println!("serving http {http:?} tcp {tcp:?} udp {udp:?}");
    servers.into_iter().try_for_each(|server| server.join().map_err(|_| io::Error::other("a server panicked")))
}

fn each_connection(
    listener: &TcpListener,
    serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) {
    for stream in listener.incoming().flatten() {
        let serve = serve.clone();
        thread::spawn(move || stream.set_read_timeout(Some(IDLE)).and_then(|()| serve(stream)));
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 64 * 1024];
    while let Ok((read, from)) = socket.recv_from(&mut buffer) {
        // A caller that went away costs the others nothing.
        let _ = socket.send_to(&buffer[..read], from);
    }
}

fn lines(count: &str, bytes: &str) -> io::Result<()> {
    let (count, filler) = (number::<u64>(count)?, "x".repeat(number(bytes)?));
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    for at in 1..=count {
        writeln!(out, "out {at} {filler}")?;
        writeln!(err, "err {at} {filler}")?;
    }
    Ok(())
}

fn eat(mib: &str) -> io::Result<()> {
    let eaten = vec![1_u8; number::<usize>(mib)? << 20];
    println!("ate {} MiB", eaten.len() >> 20);
    loop {
        thread::park();
    }
}

fn number<T: std::str::FromStr>(text: &str) -> io::Result<T> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number that fits")))
}
