//! Compression, told by the first bytes.

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _};

/// First bytes of a gzip member (RFC 1952, section 2.3.1) and of a Zstandard frame (RFC 8878,
/// section 3.1.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The tar inside, whether compressed or not.
pub async fn decompress(
    mut archive: impl AsyncBufRead + Send + Unpin + 'static,
) -> std::io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let mut first = Vec::with_capacity(ZSTD.len());
    (&mut archive).take(ZSTD.len() as u64).read_to_end(&mut first).await?;
    let whole = std::io::Cursor::new(first.clone()).chain(archive);
    Ok(match () {
        () if first.starts_with(&GZIP) => {
            let mut decoder = GzipDecoder::new(whole);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        () if first == ZSTD => {
            let mut decoder = ZstdDecoder::new(whole);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        () => Box::new(whole),
    })
}

/// Media type of a layer that begins so.
pub fn layer_media_type(first: &[u8]) -> &'static str {
    match first {
        _ if first.starts_with(&GZIP) => "application/vnd.oci.image.layer.v1.tar+gzip",
        _ if first.starts_with(&ZSTD) => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    }
}
