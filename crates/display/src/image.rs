//! Pictures as files.

use visor_console::Picture;

/// `picture` as a PNG file. One without pixels becomes a single black one, as the format knows no empty images.
///
/// # Errors
/// None that a picture in memory can cause; the encoder's, as text for a person.
pub fn png(picture: &Picture) -> Result<Vec<u8>, std::io::Error> {
    let (width, height) = (picture.width().max(1), picture.height().max(1));
    let mut rgb = picture.rgb();
    rgb.resize(width as usize * height as usize * 3, 0);
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(::png::ColorType::Rgb);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.set_compression(::png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(std::io::Error::other)?;
    writer.write_image_data(&rgb).map_err(std::io::Error::other)?;
    writer.finish().map_err(std::io::Error::other)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use visor_console::{FrameBufferSink, Size};

    #[test]
    fn pictures_survive_the_file() {
        let mut picture = Picture::default();
        picture.resize(Size { width: 3, height: 2 });
        picture.row(1, 1, &[0x12_3456, 0xff_ffff]);
        let file = png(&picture).unwrap();
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut data = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut data).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!(data[..12], [0; 12]);
        assert_eq!(data[12..], [0x12, 0x34, 0x56, 0xff, 0xff, 0xff]);
        assert!(png(&Picture::default()).is_ok());
    }
}
