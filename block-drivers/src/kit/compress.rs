//! Compression of clusters, and decompression bounded by the length that the format says they have.
//!
//! Streams are kept when they are done with: their state costs more to make than a small cluster to
//! compress, and more memory than everything else here. There are as many as were ever in use at once,
//! on whatever threads. Formats store how many sectors a compressed cluster touches, not how many bytes it has, so what
//! follows the stream is not an error; nor is a stream that never says that it ends, once the
//! output is whole. Writers differ in both. Not here: where the bytes come from.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use parking_lot::Mutex;

/// What is wrong with compressed bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecompressError {
    /// The bytes are not a stream of the expected kind.
    #[error("compressed data is not a valid stream")]
    Invalid,
    /// The stream ended, or the input did, before the output was whole.
    #[error("compressed data holds {got} of {want} bytes")]
    Short {
        /// Bytes that came out.
        got: usize,
        /// Bytes that the format says there are.
        want: usize,
    },
    /// The build leaves this kind of compression out.
    #[cfg(not(feature = "zstd"))]
    #[error("{0} compression is not built in")]
    NotBuiltIn(&'static str),
}

/// Log2 of the window of deflate streams: readers of qcow2 have no larger one.
const DEFLATE_WINDOW_BITS: u8 = 12;
/// With this the codec makes streams as long as zlib's of level 6, in less than half the time.
const DEFLATE_LEVEL: Compression = Compression::new(5);

/// What is not in use, for whoever needs one next.
pub(crate) struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    /// Nothing.
    pub(crate) const fn new() -> Idle<T> {
        Idle(Mutex::new(Vec::new()))
    }

    /// The one that was used last: its memory is in a cache still.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().pop()
    }

    /// Keeps one for the next.
    pub(crate) fn put(&self, done_with: T) {
        self.0.lock().push(done_with);
    }
}

/// Deflates `input` into the start of `out`, without zlib header; `None` when it does not fit.
pub(crate) fn deflate_raw(input: &[u8], out: &mut [u8]) -> Option<usize> {
    static STREAMS: Idle<Compress> = Idle::new();
    let mut stream = match STREAMS.take() {
        Some(mut stream) => {
            stream.reset();
            stream
        }
        None => Compress::new_with_window_bits(DEFLATE_LEVEL, false, DEFLATE_WINDOW_BITS),
    };
    match stream.compress(input, out, FlushCompress::Finish) {
        Ok(Status::StreamEnd) => {
            let len = usize::try_from(stream.total_out()).ok();
            STREAMS.put(stream);
            len
        }
        // One that stopped in the middle is not used again: a reset leaves it with less room
        // for what it has not given out.
        Ok(Status::Ok | Status::BufError) | Err(_) => None,
    }
}

/// Whether [`zstd_frame`] and [`unzstd`] are more than refusals.
pub(crate) const HAS_ZSTD: bool = cfg!(feature = "zstd");

/// Compresses `input` to one zstd frame at the start of `out`; `None` when it does not fit.
#[cfg(feature = "zstd")]
pub(crate) fn zstd_frame(input: &[u8], out: &mut [u8]) -> Option<usize> {
    use zstd::bulk::Compressor;
    static COMPRESSORS: Idle<Compressor<'static>> = Idle::new();
    let mut compressor = match COMPRESSORS.take() {
        Some(compressor) => compressor,
        None => Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL).ok()?,
    };
    let fitted = compressor.compress_to_buffer(input, out).ok();
    COMPRESSORS.put(compressor);
    fitted
}

/// Says that it does not fit.
#[cfg(not(feature = "zstd"))]
pub(crate) fn zstd_frame(_input: &[u8], _out: &mut [u8]) -> Option<usize> {
    None
}

/// Inflates raw deflate data (no zlib header) until `out` is full.
///
/// # Errors
/// When the input is not deflate data, or ends before `out` is full.
pub(crate) fn inflate_raw(input: &[u8], out: &mut [u8]) -> Result<(), DecompressError> {
    static STREAMS: Idle<Decompress> = Idle::new();
    let mut stream = STREAMS.take().unwrap_or_else(|| Decompress::new(false));
    stream.reset(false);
    let inflated = inflate_with(&mut stream, input, out);
    STREAMS.put(stream);
    inflated
}

fn inflate_with(
    stream: &mut Decompress,
    input: &[u8],
    out: &mut [u8],
) -> Result<(), DecompressError> {
    let mut got = 0;
    let mut used = 0;
    loop {
        let (before_in, before_out) = (stream.total_in(), stream.total_out());
        let rest = out.get_mut(got..).unwrap_or_default();
        let status = stream
            .decompress(
                input.get(used..).unwrap_or_default(),
                rest,
                FlushDecompress::Finish,
            )
            .map_err(|_| DecompressError::Invalid)?;
        let produced = usize::try_from(stream.total_out() - before_out).unwrap_or(0);
        let consumed = usize::try_from(stream.total_in() - before_in).unwrap_or(0);
        got += produced;
        used += consumed;
        if got == out.len() {
            return Ok(());
        }
        if status == Status::StreamEnd || (produced == 0 && consumed == 0) {
            return Err(DecompressError::Short {
                got,
                want: out.len(),
            });
        }
    }
}

/// Decompresses one or several zstd frames until `out` is full.
///
/// # Errors
/// When the input is not zstd data, or ends before `out` is full.
#[cfg(feature = "zstd")]
pub(crate) fn unzstd(input: &[u8], out: &mut [u8]) -> Result<(), DecompressError> {
    use zstd::stream::raw::{Decoder, Operation};
    static DECODERS: Idle<Decoder<'static>> = Idle::new();
    // What an error leaves is not used again.
    let mut decoder = match DECODERS.take() {
        Some(decoder) => decoder,
        None => Decoder::new().map_err(|_| DecompressError::Invalid)?,
    };
    decoder.reinit().map_err(|_| DecompressError::Invalid)?;
    unzstd_with(&mut decoder, input, out)?;
    DECODERS.put(decoder);
    Ok(())
}

#[cfg(feature = "zstd")]
fn unzstd_with(
    decoder: &mut zstd::stream::raw::Decoder<'static>,
    input: &[u8],
    out: &mut [u8],
) -> Result<(), DecompressError> {
    use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
    let want = out.len();
    let mut source = InBuffer::around(input);
    let mut target = OutBuffer::around(out);
    while target.pos() < want {
        let before = (source.pos(), target.pos());
        decoder
            .run(&mut source, &mut target)
            .map_err(|_| DecompressError::Invalid)?;
        if before == (source.pos(), target.pos()) {
            return Err(DecompressError::Short {
                got: target.pos(),
                want,
            });
        }
    }
    Ok(())
}

/// Says that zstd is not built in.
#[cfg(not(feature = "zstd"))]
pub(crate) fn unzstd(_input: &[u8], _out: &mut [u8]) -> Result<(), DecompressError> {
    Err(DecompressError::NotBuiltIn("zstd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflate(bytes: &[u8], finish: FlushCompress) -> Vec<u8> {
        let mut out = vec![0; bytes.len() + 64];
        let mut stream = Compress::new(Compression::default(), false);
        stream.compress(bytes, &mut out, finish).unwrap();
        out.truncate(usize::try_from(stream.total_out()).unwrap());
        out
    }

    #[test]
    fn garbage_behind_the_stream_is_ignored() {
        let data: Vec<u8> = (0..4096u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut packed = deflate(&data, FlushCompress::Finish);
        packed.extend([0xff; 300]);
        let mut out = vec![0; 4096];
        assert_eq!(inflate_raw(&packed, &mut out), Ok(()));
        assert_eq!(out, data);
    }

    #[test]
    fn a_stream_without_its_end_is_accepted_when_the_output_is_whole() {
        let data = vec![7; 4096];
        let packed = deflate(&data, FlushCompress::Sync);
        let mut out = vec![0; 4096];
        assert_eq!(inflate_raw(&packed, &mut out), Ok(()));
        assert_eq!(out, data);
    }

    #[test]
    fn output_is_bounded_and_short_streams_are_errors() {
        let packed = deflate(&vec![0; 1 << 20], FlushCompress::Finish);
        assert_eq!(inflate_raw(&packed, &mut [1; 512]), Ok(()));
        let packed = deflate(&[1; 100], FlushCompress::Finish);
        assert_eq!(
            inflate_raw(&packed, &mut [0; 512]),
            Err(DecompressError::Short {
                got: 100,
                want: 512
            })
        );
        assert_eq!(
            inflate_raw(&[0xff; 64], &mut [0; 512]),
            Err(DecompressError::Invalid)
        );
        assert!(inflate_raw(&[], &mut [0; 512]).is_err());
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn several_zstd_frames_make_one_cluster() {
        let mut packed = zstd::bulk::compress(&[1; 256], 3).unwrap();
        packed.extend(zstd::bulk::compress(&[2; 256], 3).unwrap());
        packed.extend([0; 100]);
        let mut out = [0; 512];
        assert_eq!(unzstd(&packed, &mut out), Ok(()));
        assert!(out[..256].iter().all(|&b| b == 1) && out[256..].iter().all(|&b| b == 2));
        assert!(unzstd(&packed[..10], &mut [0; 512]).is_err());
    }

    #[track_caller]
    fn round_trip(
        pack: impl Fn(&[u8], &mut [u8]) -> Option<usize>,
        unpack: impl Fn(&[u8], &mut [u8]) -> Result<(), DecompressError>,
    ) {
        let data: Vec<u8> = (0..65536u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
        let mut packed = vec![0; 65535];
        let len = pack(&data, &mut packed).unwrap();
        assert!(len < 16384, "{len}");
        let mut out = vec![1; 65536];
        assert_eq!(unpack(&packed[..len], &mut out), Ok(()));
        assert_eq!(out, data);
        // What did not fit leaves nothing behind for the next.
        for short in 0..20 {
            assert_eq!(pack(&data, &mut packed[..len - 1 - short]), None);
        }
        assert_eq!(pack(&data, &mut packed), Some(len));
    }

    #[test]
    fn what_is_packed_unpacks() {
        round_trip(deflate_raw, inflate_raw);
        if HAS_ZSTD {
            round_trip(zstd_frame, unzstd);
        }
    }
}
