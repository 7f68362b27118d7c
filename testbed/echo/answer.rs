//! One HTTP/1.1 request, one answer.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Mutex,
};

/// Longest request line and headers together.
const MAX_HEAD: u64 = 16 * 1024;

static VISITS: Mutex<()> = Mutex::new(());

/// Reads a request from `stream` and answers it; `data` is where `/visits` keeps its count.
pub fn http(stream: TcpStream, data: &str) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let head: Vec<String> = BufReader::new((&stream).take(MAX_HEAD))
        .lines()
        .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
        .collect::<Result<_, _>>()?;
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let answer = match path {
        "/" => Ok(format!("{} answers {peer}\n", host())),
        "/healthz" => Ok("ok\n".to_owned()),
        "/env" => Ok(std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect()),
        "/visits" => visit(Path::new(data)).map(|count| format!("{count}\n")),
        "/get" => get(query),
        _ => return reply(&stream, "404 Not Found", "no such page\n"),
    };
    match answer {
        Ok(body) => reply(&stream, "200 OK", &body),
        Err(error) => reply(&stream, "500 Internal Server Error", &format!("{error}\n")),
    }
}

fn reply(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn visit(data: &Path) -> io::Result<u64> {
    let _one_at_a_time = VISITS.lock().map_err(|_| io::Error::other("a visit panicked"))?;
    let file = data.join("visits");
    let count = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64) + 1;
    fs::write(&file, format!("{count}\n"))?;
    Ok(count)
}

fn get(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
