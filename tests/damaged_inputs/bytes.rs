//! Files made byte by byte, since no encoder writes broken ones.

/// A PNG from its chunks.
pub(crate) struct Png {
    chunks: Vec<([u8; 4], Vec<u8>)>,
}

impl Png {
    pub(crate) fn new(width: u32, height: u32, depth: u8, color_type: u8) -> Self {
        let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
        header.extend([depth, color_type, 0, 0, 0]);
        Self { chunks: vec![(*b"IHDR", header)] }
    }

    pub(crate) fn chunk(mut self, name: &[u8; 4], data: impl Into<Vec<u8>>) -> Self {
        self.chunks.push((*name, data.into()));
        self
    }

    /// Rows of these bytes, each with the filter "none" before it.
    pub(crate) fn rows(self, rows: u32, bytes: u32, value: impl Fn(u32, u32) -> u8) -> Self {
        let row = |y| std::iter::once(0).chain((0..bytes).map(move |x| (x, y)).map(|(x, y)| value(x, y)));
        let data: Vec<u8> = (0..rows).flat_map(row).collect();
        self.chunk(b"IDAT", zlib(&data))
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        for (name, data) in self.chunk(b"IEND", []).chunks {
            file.extend((data.len() as u32).to_be_bytes());
            let named = [name.as_slice(), &data].concat();
            file.extend(&named);
            file.extend(crc(&named).to_be_bytes());
        }
        file
    }
}

fn crc(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !data.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A zlib stream without compression.
pub(crate) fn zlib(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(u16::MAX.into());
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.enumerate() {
        let length = block.len() as u16;
        stream.push(u8::from(index == last));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

/// A zlib stream of at least this many zeros, one five-hundredth as long: a literal, then "258 times the same again".
pub(crate) fn zlib_of_zeros(count: u64) -> Vec<u8> {
    let (mut stream, mut held, mut bits) = (vec![0x78, 0x01], 0_u32, 0);
    let mut put = |code: u32, length: u32| {
        // Huffman codes begin with their highest bit, bytes with their lowest.
        held |= (code.reverse_bits() >> (32 - length)) << bits;
        bits += length;
        while bits >= 8 {
            stream.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    };
    put(0b1, 1);
    put(0b10, 2);
    put(0x30, 8);
    let repeats = count.div_ceil(258);
    for _ in 0..repeats {
        put(0b1100_0101, 8);
        put(0, 5);
    }
    put(0, 7);
    put(0, 7);
    let sum = ((repeats * 258 + 1) % 65_521) as u32;
    stream.extend((sum << 16 | 1).to_be_bytes());
    stream
}

/// A baseline JPEG of 64x64 pixels in so many components, grey all over: each block is "as before" and "no more".
pub(crate) fn grey_jpeg(components: u8) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8];
    let mut segment = |marker: u8, data: &[u8]| {
        file.extend([0xff, marker]);
        file.extend((data.len() as u16 + 2).to_be_bytes());
        file.extend(data);
    };
    segment(0xdb, &[&[0][..], &[1; 64]].concat());
    let mut frame = vec![8, 0, 64, 0, 64, components];
    let mut scan = vec![components];
    for component in 1..=components {
        frame.extend([component, 0x11, 0]);
        scan.extend([component, 0]);
    }
    segment(0xc0, &frame);
    // One code of one bit each: "no difference" and "end of block".
    let table = |class: u8| [&[class][..], &[1], &[0; 15], &[0]].concat();
    segment(0xc4, &table(0x00));
    segment(0xc4, &table(0x10));
    scan.extend([0, 63, 0]);
    segment(0xda, &scan);
    file.extend(vec![0; 16 * usize::from(components)]);
    file.extend([0xff, 0xd9]);
    file
}

/// Puts an application segment behind the start of a JPEG.
pub(crate) fn with_segment(jpeg: &[u8], marker: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, data, &jpeg[2..]].concat()
}

/// EXIF data of one entry, the orientation.
pub(crate) fn exif(orientation: u8) -> Vec<u8> {
    let mut data = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x00\0\0\0\0\0\0".to_vec();
    let place = data.len() - 7;
    data[place] = orientation;
    data
}

/// Changes width and height in a JPEG's frame header.
pub(crate) fn with_frame(jpeg: &[u8], change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut bytes = jpeg.to_vec();
    let start = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    change(&mut bytes[start..]);
    bytes
}
