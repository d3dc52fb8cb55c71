//! What the pure parts cost: bytes in, values out.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rmogstored::http::chunked::{Decoder, Step};
use rmogstored::http::conditional::{self, ETag, Validators};
use rmogstored::http::head::{self, Head, Parse};
use rmogstored::http::range::{self, Ranges};
use rmogstored::http::response::{About, Content, Date, Reply};
use rmogstored::http::status::Status;
use rmogstored::store::path::StorePath;
use std::hint::black_box;
use std::time::Duration;

/// What a MogileFS tracker's HTTP library asks a storage node for.
const GET: &[u8] = b"GET /dev12/0/000/123/0000123456.fid HTTP/1.1\r\n\
    Host: 192.0.2.12:7500\r\n\
    Connection: keep-alive\r\n\r\n";

/// What a browser or a proxy in front sends: more headers, none of which matters.
const GET_OF_A_PROXY: &[u8] = b"GET /dev12/0/000/123/0000123456.fid HTTP/1.1\r\n\
    Host: 192.0.2.12:7500\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    X-Forwarded-For: 198.51.100.7\r\n\
    X-Real-IP: 198.51.100.7\r\n\
    Range: bytes=0-1048575\r\n\
    If-None-Match: \"3a01f-100000-18a3c7d2e9b41000\"\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\
    Connection: keep-alive\r\n\r\n";

const PUT: &[u8] = b"PUT /dev12/0/000/123/0000123456.fid HTTP/1.1\r\n\
    Host: 192.0.2.12:7500\r\n\
    Content-Length: 1048576\r\n\
    Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==\r\n\
    Connection: keep-alive\r\n\r\n";

const CONDITIONAL: &[u8] = b"GET /dev12/0/000/123/0000123456.fid HTTP/1.1\r\n\
    Host: 192.0.2.12:7500\r\n\
    If-None-Match: \"3a01f-100000-17a3c7d2e9b41000\", \"3a01f-100000-18a3c7d2e9b41000\"\r\n\
    If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";

const SECOND: u64 = 784_111_777;

fn complete(bytes: &[u8]) -> Head<'_> {
    match head::parse(bytes, &mut 0) {
        Parse::Complete(head, _) => head,
        _ => panic!("a head that is complete and valid"),
    }
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    for (name, bytes) in [
        ("get", GET),
        ("get_of_a_proxy", GET_OF_A_PROXY),
        ("put", PUT),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| b.iter(|| black_box(complete(black_box(bytes)))));
    }
    // Byte by byte: the end is looked for where it was not looked for yet.
    group.bench_function("get_in_single_bytes", |b| {
        b.iter(|| {
            let mut looked = 0;
            (1..=GET.len())
                .filter(|len| {
                    matches!(
                        head::parse(black_box(&GET[..*len]), &mut looked),
                        Parse::Partial
                    )
                })
                .count()
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("path", |b| {
        b.iter(|| StorePath::parse(black_box(b"/dev12/0/000/123/0000123456.fid")))
    });
    group.finish();
}

fn chunked(size: usize, count: usize) -> Vec<u8> {
    let chunk = [
        format!("{size:x}\r\n").into_bytes(),
        vec![b'x'; size],
        b"\r\n".to_vec(),
    ]
    .concat();
    [chunk.repeat(count), b"0\r\n\r\n".to_vec()].concat()
}

fn decode(mut bytes: &[u8]) -> usize {
    let mut decoder = Decoder::new(false);
    let mut body = 0;
    loop {
        match decoder.decode(bytes) {
            Ok(Step::Data(data)) => {
                body += data.len();
                bytes = &bytes[data.end..];
            }
            Ok(Step::Done(_)) => return body,
            other => panic!("a body that is complete and valid: {other:?}"),
        }
    }
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunked");
    for (name, size, count) in [("64_bytes_a_chunk", 64, 1024), ("8_kib_a_chunk", 8192, 8)] {
        let bytes = chunked(size, count);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| b.iter(|| decode(black_box(&bytes))));
    }
    group.finish();
}

fn ranges(c: &mut Criterion) {
    let mut group = c.benchmark_group("range");
    for (name, value) in [
        ("one", "bytes=0-1048575"),
        ("last", "bytes=-500"),
        ("four", "bytes=0-9,20-29,40-49,-5"),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| range::resolve(Some(black_box(value.as_bytes())), black_box(64 << 20)));
        });
    }
    group.finish();
}

fn conditions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conditional");
    group.bench_function("etag", |b| {
        b.iter(|| ETag::new(black_box(0x3a01f), black_box(1 << 20), black_box(1 << 60)))
    });
    group.bench_function("validators", |b| {
        b.iter(|| {
            Validators::new(
                black_box(0x3a01f),
                black_box(1 << 20),
                black_box(SECOND as i64),
                1000,
            )
        });
    });
    let file = Validators::new(0x3a01f, 1 << 20, SECOND as i64, 1000);
    let (plain, conditional) = (complete(GET), complete(CONDITIONAL));
    group.bench_function("evaluate_none", |b| {
        b.iter(|| conditional::evaluate(black_box(&plain), Some(&file)))
    });
    group.bench_function("evaluate_two_tags", |b| {
        b.iter(|| conditional::evaluate(black_box(&conditional), Some(&file)));
    });
    group.finish();
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("response");
    let mut date = Date::new();
    let date = date.at(SECOND);
    let etag = ETag::new(0x3a01f, 1 << 20, 1 << 60);
    let span = match range::resolve(Some(b"bytes=1000-1999"), 1 << 20) {
        Ok(Ranges::One(span)) => span,
        _ => panic!("one range"),
    };
    let mut out = Vec::with_capacity(4096);
    for name in ["whole", "part"] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let reply = Reply {
                    out: &mut out,
                    date,
                    keep_alive: true,
                };
                // A file's time, which differs from file to file.
                let about = About {
                    mtime: black_box(SECOND as i64),
                    etag: Some(&etag),
                };
                let content = if name == "whole" {
                    Content::Whole(1 << 20)
                } else {
                    Content::Part(span, 1 << 20)
                };
                reply.content(&about, &content);
                black_box(out.len())
            });
        });
    }
    group.bench_function("not_found", |b| {
        b.iter(|| {
            out.clear();
            Reply {
                out: &mut out,
                date,
                keep_alive: true,
            }
            .bare(black_box(Status::NotFound));
            black_box(out.len())
        });
    });
    group.bench_function("date_of_a_new_second", |b| {
        let mut second = SECOND;
        b.iter_batched(
            || {
                second += 1;
                (Date::new(), second)
            },
            |(mut date, second)| *date.at(second),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(700))
        .without_plots();
    targets = heads, bodies, ranges, conditions, replies
}
criterion_main!(benches);
