//! The model image: the one artefact that leaves the host, read in place by the sensor. FORMAT.md beside this file is
//! its specification.
//!
//! [`ModelImage::parse`] checks that the bytes are an undamaged image, [`ModelImage::for_graph`] that it is one for a given
//! graph; after that nothing in it is looked at twice. [`write()`] is the way back, into a buffer of [`image_len`] bytes.

mod fingerprint;
mod tensors;

pub use fingerprint::fingerprint;
pub use tensors::payload_len;

use crate::Error;
use crate::engine::params::{Int8Params, check_activations};
use crate::frame::Normalisation;
use crate::graph::{Graph, Node};
use crate::quant::Activation;
use crate::threshold::OperatingPoint;
use crc::{CRC_32_ISO_HDLC, Crc};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First bytes of every image.
pub const MAGIC: [u8; 8] = *b"GSACPIMG";
/// The format that this code writes and reads.
pub const VERSION: u32 = 1;
/// An image and every tensor in it start at a multiple of this many bytes.
pub const ALIGN: usize = 16;
/// Most operating points of an image.
pub const MAX_POINTS: usize = 8;

pub(crate) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The header, byte for byte.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    fingerprint: u32,
    widths: [u16; 5],
    input_channels: u16,
    mean: f32,
    std: f32,
    input: Activation,
    point_count: u32,
    points: [PointRecord; MAX_POINTS],
    reserved: [u8; 8],
    payload_len: u32,
    crc: u32,
}

#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct PointRecord {
    requested_fa: f32,
    pd: f32,
    fa: f32,
    threshold: i16,
    reserved: u16,
}

const HEADER_LEN: usize = size_of::<Header>();
const _: () = assert!(HEADER_LEN == 192, "FORMAT.md");

/// A checked image.
#[derive(Debug, Clone, Copy)]
pub struct ModelImage<'a> {
    header: &'a Header,
    activations: &'a [Activation],
    payload: &'a [u8],
}

impl<'a> ModelImage<'a> {
    /// Checks the image at the start of `bytes`. Errors: in the order of FORMAT.md, up to the checksum and the header's
    /// own numbers.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let (expected, found) = (HEADER_LEN, bytes.len());
        let (head, rest) = bytes.split_at_checked(HEADER_LEN).ok_or(Error::WrongLength { expected, found })?;
        if !bytes.as_ptr().addr().is_multiple_of(ALIGN) {
            return Err(Error::Misaligned);
        }
        let header = Header::ref_from_bytes(head).map_err(|_| Error::Misaligned)?;
        if header.magic != MAGIC {
            return Err(Error::ImageMagic);
        }
        if header.version != VERSION {
            return Err(Error::ImageVersion { found: header.version });
        }
        let payload_len = header.payload_len as usize;
        let expected = HEADER_LEN.saturating_add(payload_len);
        let payload = rest.get(..payload_len).ok_or(Error::WrongLength { expected, found })?;
        if checksum(head, payload) != header.crc {
            return Err(Error::ImageChecksum);
        }
        if !(header.mean.is_finite() && header.std.is_finite() && header.std > 0.0) {
            return Err(Error::Normalisation);
        }
        if header.point_count as usize > MAX_POINTS || !header.input.is_valid() {
            return Err(Error::Quantisation);
        }
        Ok(ModelImage { header, activations: &[], payload })
    }

    /// Checks that this is an image of `graph`: fingerprint, widths, the length of the payload, and every record
    /// against the integer contract.
    pub fn for_graph(mut self, graph: &Graph) -> Result<Self, Error> {
        let header = self.header;
        if header.fingerprint != fingerprint(graph)
            || header.widths != graph.widths
            || header.input_channels != graph.input_channels
        {
            return Err(Error::ImageGraph);
        }
        let (expected, found) = (payload_len(graph), self.payload.len());
        if expected != found {
            return Err(Error::WrongLength { expected, found });
        }
        let activations = tensors::Reader::new(self.payload).take(graph.nodes().len())?;
        check_activations(graph, activations)?;
        if activations.first() != Some(&header.input) {
            return Err(Error::Quantisation);
        }
        self.activations = activations;
        for (node, params) in self.params(graph) {
            params?.check(graph, node)?;
        }
        Ok(self)
    }

    /// Widths w1…w5 and input channels of the network.
    pub fn network(&self) -> ([u16; 5], u16) {
        (self.header.widths, self.header.input_channels)
    }

    /// The training domain's normalisation.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation { mean: self.header.mean, std: self.header.std }
    }

    /// Quantisation of the normalised frame.
    pub fn input(&self) -> Activation {
        self.header.input
    }

    /// Operating points, in the order in which they were written.
    pub fn points(&self) -> impl Iterator<Item = OperatingPoint> + use<'a> {
        let to_point = |p: &PointRecord| OperatingPoint {
            requested_fa: p.requested_fa,
            threshold: p.threshold,
            pd: p.pd,
            fa: p.fa,
        };
        self.header.points.iter().take(self.header.point_count as usize).map(to_point)
    }

    /// The checksum: names the image in reports.
    pub fn crc(&self) -> u32 {
        self.header.crc
    }

    /// Bytes of the image; what follows it in its flash region is none of its business.
    pub fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Never: an image has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Quantisation of every map, in graph order; empty before [`Self::for_graph`].
    pub fn activations(&self) -> &'a [Activation] {
        self.activations
    }

    /// The parameters of every node, in graph order. Errors: an image of another graph.
    pub fn params<'g>(
        &self,
        graph: &'g Graph,
    ) -> impl Iterator<Item = (&'g Node, Result<Int8Params<'a>, Error>)> + Clone + use<'a, 'g> {
        let mut reader = tensors::Reader::new(self.payload);
        let skipped = reader.take::<Activation>(graph.nodes().len()).map(|_| ());
        graph.nodes().iter().map(move |node| (node, skipped.and_then(|()| reader.params(graph, node))))
    }
}

/// What the header of an image says beside the parameters.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    /// The training domain's normalisation.
    pub normalisation: Normalisation,
    /// At most [`MAX_POINTS`].
    pub points: &'a [OperatingPoint],
}

/// Bytes of an image of `graph`.
pub fn image_len(graph: &Graph) -> usize {
    HEADER_LEN + payload_len(graph)
}

/// Writes an image: `activations` and `params` have one entry for each node. Returns its length. Errors: a buffer
/// shorter than [`image_len`], parameters that do not fit the graph or the integer contract.
pub fn write(
    graph: &Graph,
    description: &Description,
    activations: &[Activation],
    params: &[Int8Params],
    buffer: &mut [u8],
) -> Result<usize, Error> {
    check_activations(graph, activations)?;
    let nodes = graph.nodes();
    if params.len() != nodes.len() {
        return Err(Error::WrongLength { expected: nodes.len(), found: params.len() });
    }
    let Normalisation { mean, std } = description.normalisation;
    if !(mean.is_finite() && std.is_finite() && std > 0.0) {
        return Err(Error::Normalisation);
    }
    let mut points = [PointRecord::default(); MAX_POINTS];
    let needed = description.points.len();
    if needed > MAX_POINTS {
        return Err(Error::Capacity { needed, available: MAX_POINTS });
    }
    for (record, p) in points.iter_mut().zip(description.points) {
        let OperatingPoint { requested_fa, threshold, pd, fa } = *p;
        *record = PointRecord { requested_fa, pd, fa, threshold, reserved: 0 };
    }

    let (needed, available) = (image_len(graph), buffer.len());
    let buffer = buffer.get_mut(..needed).ok_or(Error::Capacity { needed, available })?;
    let (head, payload) = buffer.split_at_mut_checked(HEADER_LEN).ok_or(Error::Capacity { needed, available })?;
    let mut writer = tensors::Writer::new(payload);
    writer.put(activations)?;
    for (node, params) in nodes.iter().zip(params) {
        params.check(graph, node)?;
        writer.put_params(params)?;
    }

    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        fingerprint: fingerprint(graph),
        widths: graph.widths,
        input_channels: graph.input_channels,
        mean,
        std,
        input: *activations.first().ok_or(Error::ImageGraph)?,
        point_count: description.points.len() as u32,
        points,
        reserved: [0; 8],
        payload_len: payload.len() as u32,
        crc: 0,
    };
    header.crc = checksum(header.as_bytes(), payload);
    header.write_to(head).map_err(|_| Error::Capacity { needed, available })?;
    Ok(needed)
}

/// CRC-32 of the header up to its own checksum, and the payload.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(head.get(..HEADER_LEN - size_of::<u32>()).unwrap_or_default());
    digest.update(payload);
    digest.finalize()
}
