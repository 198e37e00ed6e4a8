"""Faithful files of scanners: what tifffile, pydicom and Pillow can write as the vendors do."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from nucleiflow import demo

Pixels = NDArray[Any]
SIDE_PX = 512, 700  # (h, w) of the slides here, no multiple of their tiles
LABEL = np.full((60, 80, 3), (200, 30, 30), np.uint8)
MACRO = np.full((70, 150, 3), (30, 200, 30), np.uint8)


@dataclass(frozen=True)
class Made:
    """A file, and what must be read of it: levels (h, w, c), µm per pixel, channels."""

    path: Path
    levels: tuple[Pixels, ...]
    mpp: float | None
    channels: tuple[str, ...] = ("R", "G", "B")


@functools.cache
def nuclei(height: int, width: int) -> Pixels:
    """Synthetic nuclei (h, w) of 0 to 1, on 0."""
    field = demo.make_slide(max(height, width), seam_px=256)[0][:height, :width].astype(float)
    shown: Pixels = (field / field.max()).clip(0, 1)
    return shown


def tissue(height: int = SIDE_PX[0], width: int = SIDE_PX[1]) -> Pixels:
    """Violet nuclei in pink tissue (h, w, 3) uint8."""
    dye = nuclei(height, width)[..., None]
    shown = np.array([235, 200, 225]) - dye * np.array([150, 160, 90])
    return shown.clip(0, 255).astype(np.uint8)


def stain(channels: int, height: int = SIDE_PX[0], width: int = SIDE_PX[1]) -> Pixels:
    """Channels (c, h, w) uint16, the first with nuclei, all with numbers that 8 bit cannot hold."""
    rng = np.random.default_rng(11)
    noise = rng.integers(0, 999, (channels, height, width))
    noise[0] += (40_000 * nuclei(height, width)).astype(int)
    return noise.astype(np.uint16)


def halves(pixels: Pixels, levels: int) -> list[Pixels]:
    """The first `levels` levels of a pyramid of (…, h, w) or (h, w, 3) pixels, each subsampled."""
    found = [pixels]
    while len(found) < levels:
        last = found[-1]
        height, width = (
            2 * (n // 2) for n in (last.shape[:2] if last.shape[-1] == 3 else last.shape[-2:])
        )
        cut = last[:height:2, :width:2] if last.shape[-1] == 3 else last[..., :height:2, :width:2]
        found.append(np.ascontiguousarray(cut))
    return found


def last(stack: Sequence[Pixels]) -> tuple[Pixels, ...]:
    """Channels first -> channels last."""
    return tuple(np.moveaxis(pixels, 0, -1) for pixels in stack)


def decoded(path: Path, pages: Sequence[int]) -> tuple[Pixels, ...]:
    """Pages as tifffile decodes them whole."""
    with tifffile.TiffFile(path) as file:
        return tuple(file.pages[page].asarray() for page in pages)


# TIFF


def svs(path: Path, *, compression: str = "jpeg", mpp: str = "0.2520", label: bool = True) -> Made:
    """Aperio: slide, thumbnail, levels, label and macro, told apart by their order."""
    levels = halves(tissue(), 2)
    about = (
        f"Aperio Image Library v11.2.1\r\n700x512 [0,0 700x512] (240x240) |AppMag = 40|MPP = {mpp}"
    )
    tiled: dict[str, Any] = {"tile": (240, 240), "photometric": "rgb", "metadata": None}
    side: dict[str, Any] = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
    stored = levels
    if compression == "APERIO_JP2000_YCBC":
        stored = [np.round(to_ycbcr(level)).clip(0, 255).astype(np.uint8) for level in levels]
    if compression.startswith("APERIO"):
        tiled |= {"compressionargs": {"level": 0, "mct": False, "codecformat": "J2K"}}
    with tifffile.TiffWriter(path) as writer:
        head, tail = (
            {"compression": compression, "description": f"{about}", "software": False},
            {"compression": compression, "description": about, "software": False},
        )
        writer.write(stored[0], **tiled, **head)
        writer.write(levels[0][::4, ::4], **side, description=about)
        writer.write(stored[1], **tiled, **tail)
        if label:
            described = "Aperio Image Library v11.2.1\r\n"
            writer.write(LABEL, **side, subfiletype=1, description=f"{described}label 80x60")
            writer.write(MACRO, **side, subfiletype=9, description=f"{described}macro 150x70")
    shown = tuple(levels) if compression.startswith("APERIO") else decoded(path, [0, 2])
    return Made(path, shown, 0.252)


def to_ycbcr(pixels: Pixels) -> Pixels:
    """Red, green, blue -> YCbCr of JFIF, not rounded."""
    r, g, b = (pixels[..., k].astype(float) for k in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], axis=-1)


def qptiff(path: Path) -> Made:
    """Akoya: a page per channel, the thumbnail, then the channels of each smaller level."""
    levels = halves(stain(3), 2)
    names = ("DAPI", "CD8", "PanCK")
    tiled: dict[str, Any] = {
        "tile": (256, 256),
        "compression": "lzw",
        "photometric": "minisblack",
        "resolution": (20_000, 20_000),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
        "software": "PerkinElmer-QPI",
    }
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for k, level in enumerate(levels):
            for pixels, name in zip(level, names, strict=True):
                kind = "FullResolution" if k == 0 else "ReducedResolution"
                xml = (
                    f"<ImageType>{kind}</ImageType><Name>{name}</Name><Biomarker>{name}</Biomarker>"
                )
                about = f'<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription>{xml}'
                about += "</PerkinElmer-QPI-ImageDescription>"
                writer.write(pixels, **tiled, description=about)
            if k == 0:
                writer.write(LABEL, photometric="rgb", metadata=None, software="PerkinElmer-QPI")
    return Made(path, last(levels), 0.5, names)


def ome_channels(path: Path) -> Made:
    """OME-TIFF: 16 bit channels, levels as SubIFDs."""
    levels = halves(stain(4), 3)
    names = ("DAPI", "FITC", "Cy3", "Cy5")
    about = {
        "axes": "CYX", "PhysicalSizeX": 325.0, "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 325.0, "PhysicalSizeYUnit": "nm", "Channel": {"Name": list(names)},
    }  # fmt: skip
    tiled: dict[str, Any] = {"tile": (128, 128), "compression": "zlib", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        writer.write(levels[0], subifds=2, metadata=about, **tiled)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **tiled)
    return Made(path, last(levels), 0.325, names)


def ome_files(path: Path) -> Made:
    """OME-TIFF of two files: the second channel lies in `b.tif` beside it."""
    pixels, uuids = stain(2), ("urn:uuid:a", "urn:uuid:b")
    files = (path.name, "b.tif")
    data = "".join(
        f'<TiffData FirstC="{k}" IFD="0" PlaneCount="1"><UUID FileName="{files[k]}">{uuids[k]}'
        "</UUID></TiffData>"
        for k in range(2)
    )
    height, width = pixels.shape[1:]
    for k in range(2):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/'
            f'Schemas/OME/2016-06" UUID="{uuids[k]}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            f'DimensionOrder="XYCZT" Type="uint16" SizeX="{width}" SizeY="{height}" SizeC="2" '
            'SizeZ="1" SizeT="1" PhysicalSizeX="0.4" PhysicalSizeY="0.4"><Channel ID="C:0" '
            f'Name="A"/><Channel ID="C:1" Name="B"/>{data}</Pixels></Image></OME>'
        )
        options: dict[str, Any] = {"tile": (128, 128), "compression": "zlib", "metadata": None}
        tifffile.imwrite(path.parent / files[k], pixels[k], description=xml, **options)
    return Made(path, last([pixels]), 0.4, ("A", "B"))


def pyramid(path: Path, **options: Any) -> Made:
    """A plain pyramid as libvips writes it: pages, each marked as reduced."""
    levels = halves(tissue(), 3)
    common: dict[str, Any] = {
        "tile": (256, 256), "photometric": "rgb", "compression": "deflate", "metadata": None,
        "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with tifffile.TiffWriter(path, **options) as writer:
        for k, level in enumerate(levels):
            rate = 40_000 / 2**k
            writer.write(level, **common, resolution=(rate, rate), subfiletype=int(k > 0))
    return Made(path, tuple(levels), 0.25)


def strips(path: Path) -> Made:
    """A plain TIFF in strips, 16 bit grey, without a size."""
    pixels = stain(1)[0]
    tifffile.imwrite(path, pixels, rowsperstrip=33, compression="lzw", metadata=None)
    return Made(path, (pixels[..., None],), None, ("channel 0",))


def philips(path: Path) -> Made:
    """Philips: the first page's XML has the spacing of each level; levels are padded to tiles."""
    levels = halves(tissue(1024, 1280), 2)
    spacing = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
        f'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">"{0.00025 * 2**k}" '
        f'"{0.00025 * 2**k}"</Attribute></DataObject>'
        for k in range(2)
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
        'Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI'
        "</Attribute><Attribute "
        f'Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{spacing}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )
    tiled: dict[str, Any] = {
        "tile": (512, 512), "photometric": "rgb", "compression": "jpeg", "metadata": None,
    }  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(levels[0], **tiled, description=xml, software="Philips DP v1.0")
        padded = np.pad(levels[1], [(0, 0), (0, -levels[1].shape[1] % 512), (0, 0)], mode="edge")
        writer.write(padded, **tiled, description="level=1", software=False, subfiletype=1)
        writer.write(MACRO, photometric="rgb", metadata=None, description="Macro", software=False)
        writer.write(LABEL, photometric="rgb", metadata=None, description="Label", software=False)
    first, second = decoded(path, [0, 1])
    return Made(path, (first, second[:, : levels[1].shape[1]]), 0.25)


def scn(path: Path) -> Made:
    """Leica: XML says which page is which level of which image; the macro image comes first."""
    levels = halves(tissue(), 2)
    (height, width), side = levels[0].shape[:2], MACRO.shape
    lamp = (
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings>"
    )
    main = "".join(
        f'<dimension sizeX="{p.shape[1]}" sizeY="{p.shape[0]}" r="{r}" ifd="{r + 1}" />'
        for r, p in enumerate(levels)
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        'uuid="urn:uuid:0"><collection name="c" sizeX="26000000" sizeY="76000000"><image '
        f'name="macro">{lamp}'
        f'<pixels sizeX="{side[1]}" sizeY="{side[0]}"><dimension sizeX="{side[1]}" '
        f'sizeY="{side[0]}" r="0" ifd="0" /></pixels><view sizeX="26000000" sizeY="76000000" '
        'offsetX="0" offsetY="0" /></image><image name="scan">'
        f"{lamp}<pixels "
        f'sizeX="{width}" sizeY="{height}">{main}</pixels><view sizeX="{width * 500}" '
        f'sizeY="{height * 500}" offsetX="1000" offsetY="1000" /></image></collection></scn>'
    )
    tiled: dict[str, Any] = {
        "tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None,
        "software": False,
    }  # fmt: skip
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(MACRO, **tiled, description=xml)
        for level in levels:
            writer.write(level, **tiled)
    return Made(path, decoded(path, [1, 2]), 0.5)


def bif(path: Path) -> Made:
    """Ventana: iScan XML in tag 700, tiles placed by the XML of the level."""
    pixels = tissue(512, 512)
    joint = (
        '<TileJointInfo FlagJoined="1" Confidence="99" Direction="{}" Tile1="{}" Tile2="{}" '
        'OverlapX="0" OverlapY="0"/>'
    )
    iscan = (
        '<iScan Magnification="20" ScanRes="0.465" ScannerModel="VENTANA iScan HT">'
        '<AOI0 Left="0" Top="2" Right="2" Bottom="0"/></iScan>'
    )
    encode = (
        '<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" '
        'NumRows="2" NumCols="2" Width="256" Height="256" Pos-X="0" Pos-Y="0">'
        + joint.format("RIGHT", 1, 2)
        + joint.format("RIGHT", 4, 3)
        + joint.format("UP", 1, 4)
        + joint.format("UP", 2, 3)
        + '</ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin>'
        "</EncodeInfo>"
    )
    tiled: dict[str, Any] = {
        "tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None,
        "software": False,
    }  # fmt: skip

    def xmp(text: str) -> list[Any]:
        return [(700, "B", len(text), text.encode(), True)]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            LABEL,
            photometric="rgb",
            metadata=None,
            software=False,
            description="Label_Image",
            extratags=xmp(f"<Metadata>{iscan}</Metadata>"),
        )
        writer.write(
            pixels, **tiled, description="level=0 mag=20 quality=90", extratags=xmp(encode)
        )
    return Made(path, decoded(path, [1]), 0.465)


# others


def dicom(folder: Path, *, colours: str = "YBR_FULL_422", lies: bool = False) -> Made:
    """DICOM WSI of one level in JPEG frames, and its label; `lies`: RGB is said of YCbCr."""
    pixels, (height, width) = tissue(), SIDE_PX
    frames, read = [], np.zeros_like(pixels)
    for y in range(0, height, 256):
        for x in range(0, width, 256):
            part = np.full((256, 256, 3), 255, np.uint8)
            found = pixels[y : y + 256, x : x + 256]
            part[: found.shape[0], : found.shape[1]] = found
            space = "RGB" if colours == "RGB" and not lies else "YCBCR"
            frame = imagecodecs.jpeg8_encode(
                part, level=90, colorspace="RGB", outcolorspace=space,
                subsampling="444" if space == "RGB" else "420",
            )  # fmt: skip
            back = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace="RGB")
            read[y : y + 256, x : x + 256] = back[: found.shape[0], : found.shape[1]]
            frames.append(frame)
    folder.mkdir(exist_ok=True)
    series = generate_uid()
    level = _dicom(series, "VOLUME", (height, width), (256, 256), len(frames))
    level.PhotometricInterpretation = "RGB" if lies else colours
    level.PixelData = encapsulate(frames)
    level["PixelData"].is_undefined_length = True
    level.save_as(folder / "slide.dcm", enforce_file_format=True)
    label = _dicom(series, "LABEL", LABEL.shape[:2], LABEL.shape[:2], 1)
    label.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    label.PhotometricInterpretation = "RGB"
    label.PixelData = LABEL.tobytes()
    label["PixelData"].VR = "OB"
    label.save_as(folder / "label.dcm", enforce_file_format=True)
    return Made(folder, (read,), 0.25)


def _dicom(
    series: str, kind: str, whole: tuple[int, int], tile: tuple[int, int], frames: int
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    found = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    found.SOPClassUID, found.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    found.SeriesInstanceUID, found.StudyInstanceUID = series, generate_uid()
    found.FrameOfReferenceUID = generate_uid()
    found.Modality, found.ImageType = "SM", ["ORIGINAL", "PRIMARY", kind, "NONE"]
    found.Rows, found.Columns = tile
    found.TotalPixelMatrixRows, found.TotalPixelMatrixColumns = whole
    found.NumberOfFrames = frames
    found.SamplesPerPixel, found.PlanarConfiguration = 3, 0
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit, found.PixelRepresentation = 7, 0
    found.DimensionOrganizationType = "TILED_FULL"
    found.NumberOfOpticalPaths = found.TotalPixelMatrixFocalPlanes = 1
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.00025, 0.00025], 0.001
    shared.PixelMeasuresSequence = Items([measures])
    found.SharedFunctionalGroupsSequence = Items([shared])
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    found.OpticalPathSequence = Items([path])
    return found


JPEG_RESTARTS: dict[str, Any] = {"restart_marker_blocks": 4, "subsampling": 0}


def vms(path: Path) -> Made:
    """Hamamatsu VMS: an index, the slide's JPEG with restart markers, a map and a macro image."""
    pixels = tissue(512, 768)
    folder = path.parent
    for name, one in (("a.jpg", pixels), ("map.jpg", pixels[::4, ::4]), ("macro.jpg", MACRO)):
        Image.fromarray(one).save(folder / name, quality=90, **JPEG_RESTARTS)
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
        "ImageFile=a.jpg\nMapFile=map.jpg\nMacroImage=macro.jpg\nPhysicalWidth=192000\n"
        "PhysicalHeight=128000\nSourceLens=40\nPhysicalMacroWidth=1000000\n"
        "PhysicalMacroHeight=1000000\n"
    )
    return Made(path, (np.asarray(Image.open(folder / "a.jpg")),), 0.25)


def mrxs(path: Path) -> Made:
    """MIRAX: a JPEG as the face, and beside it a folder of an index and a file of tiles.

    Nothing was scanned in the last quarter of the slide.
    """
    pixels, side = tissue(512, 768), 256
    levels, folder = halves(pixels, 2), path.with_suffix("")
    folder.mkdir()
    Image.fromarray(pixels[::8, ::8]).save(path, format="JPEG")
    tiles, records, read = b"\0" * 16, [], [np.zeros_like(level) for level in levels]
    for k, level in enumerate(levels):
        found = []
        for y in range(0, level.shape[0], side):
            for x in range(0, level.shape[1], side):
                part = np.full((side, side, 3), 255, np.uint8)
                inside = level[y : y + side, x : x + side]
                part[: inside.shape[0], : inside.shape[1]] = inside
                jpeg = imagecodecs.jpeg8_encode(part, level=90, subsampling="444")
                back = imagecodecs.jpeg8_decode(jpeg)[: inside.shape[0], : inside.shape[1]]
                read[k][y : y + side, x : x + side] = back
                index = (y // side) * 2**k * 4 + (x // side) * 2**k  # on a grid of 4 x 2 tiles
                found.append((index, len(tiles), len(jpeg), 0))
                tiles += jpeg
        records.append(found)
    (folder / "Data0000.dat").write_bytes(tiles)
    (folder / "Index.dat").write_bytes(_mrxs_index(b"0123456789ABCDEF", records))
    (folder / "Slidedat.ini").write_text(_mrxs_ini("0123456789ABCDEF", len(levels), side))
    whole = [
        np.pad(one, ((0, 0), (0, 256 >> k), (0, 0)), constant_values=255)
        for k, one in enumerate(read)
    ]
    return Made(path, tuple(whole), 0.25)


def _mrxs_index(slide: bytes, records: Sequence[Sequence[tuple[int, int, int, int]]]) -> bytes:
    """Version, slide, where the list of levels is; each level leads to a page of tiles."""
    start = 5 + len(slide) + 8
    heads, pages = start + 4 * len(records), b""
    pointers, first = [], heads
    for found in records:
        pointers.append(first + len(pages))
        at = first + len(pages) + 8
        pages += struct.pack("<4i", 0, at, len(found), 0)
        pages += b"".join(struct.pack("<4i", *one) for one in found)
    return b"01.02" + slide + struct.pack(f"<2i{len(records)}i", start, start, *pointers) + pages


def _mrxs_ini(slide: str, levels: int, side: int) -> str:
    text = (
        f"[GENERAL]\nSLIDE_ID={slide}\nIMAGENUMBER_X=4\nIMAGENUMBER_Y=2\n"
        "OBJECTIVE_MAGNIFICATION=40\n[HIERARCHICAL]\nINDEXFILE=Index.dat\nHIER_COUNT=1\n"
        f"NONHIER_COUNT=0\nHIER_0_NAME=Slide zoom level\nHIER_0_COUNT={levels}\n"
    )
    text += "".join(f"HIER_0_VAL_{k}_SECTION=LEVEL_{k}\n" for k in range(levels))
    text += "[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0000.dat\n"
    for k in range(levels):
        text += (
            f"[LEVEL_{k}]\nOVERLAP_X=0\nOVERLAP_Y=0\nMICROMETER_PER_PIXEL_X={0.25 * 2**k}\n"
            f"MICROMETER_PER_PIXEL_Y={0.25 * 2**k}\nIMAGE_FILL_COLOR_BGR=16777215\n"
            f"DIGITIZER_WIDTH={side}\nDIGITIZER_HEIGHT={side}\nIMAGE_FORMAT=JPEG\n"
            f"IMAGE_CONCAT_FACTOR={int(k > 0)}\n"
        )
    return text


def czi(path: Path) -> Made:
    """Zeiss, by Zeiss's own library; made to be as their slide scanners write it.

    These have no dimensions T and Z, and a directory of attachments.
    """
    from pylibCZIrw import czi as theirs

    pixels = tissue()
    with theirs.create_czi(str(path), compression_options="zstd1:") as file:
        for y in range(0, pixels.shape[0], 256):
            for x in range(0, pixels.shape[1], 256):
                part = np.ascontiguousarray(pixels[y : y + 256, x : x + 256, ::-1])
                file.write(part, plane={"C": 0}, location=(x, y), scene=0)
        file.write_metadata("slide", scale_x=2.5e-7, scale_y=2.5e-7)
    raw = bytearray(
        path.read_bytes().replace(b"Z\0\0\0", b"S\0\0\0").replace(b"T\0\0\0", b"M\0\0\0")
    )
    struct.pack_into("<q", raw, 104, len(raw))
    path.write_bytes(raw + struct.pack("<16sqqi252x", b"ZISRAWATTDIR", 256, 256, 0))
    return Made(path, (pixels,), 0.25)


def ndpi(path: Path) -> Made:
    """Hamamatsu: each level is one JPEG in one strip, entered at its restart markers; last a macro
    image, whose objective is -1. Classic TIFF but for offsets of 64 bits.
    """
    levels = halves(tissue(512, 768), 2)
    raw, heads, read = bytearray(b"II*\0" + bytes(8)), [], []
    for pixels, lens, per_cm in (
        (levels[0], 40.0, 40_000),
        (levels[1], 20.0, 20_000),
        (MACRO, -1.0, 600),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=90, **JPEG_RESTARTS)
        jpeg = buffer.getvalue()
        read.append(np.asarray(Image.open(buffer)))
        start = len(raw)
        raw += jpeg + bytes(-len(jpeg) % 8)
        heads.append((pixels.shape, lens, per_cm, start, jpeg))
    at = 4
    for shape, lens, per_cm, start, jpeg in heads:
        tags = _ndpi_tags(raw, shape, lens, per_cm, start, jpeg)
        struct.pack_into("<Q" if at > 4 else "<I", raw, at, len(raw))
        raw += struct.pack("<H", len(tags)) + b"".join(tags)
        at = len(raw)
        raw += bytes(8 + 4 * len(tags)) + bytes(-len(raw) % 8)
    path.write_bytes(raw)
    return Made(path, tuple(read[:2]), 0.25)


def _ndpi_tags(
    raw: bytearray, shape: tuple[int, ...], lens: float, per_cm: int, start: int, jpeg: bytes
) -> list[bytes]:
    """Entries of a page's table; what does not fit in them goes to the end of the file."""

    def entry(code: int, kind: str, *values: Any) -> bytes:
        number = {"H": 3, "I": 4, "II": 5, "i": 9, "f": 11, "s": 2}[kind]
        data = values[0] if kind == "s" else struct.pack(f"<{len(values)}{kind[0]}", *values)
        count = len(data) if kind == "s" else len(values) // len(kind)
        if len(data) > 4:
            where, data = len(raw), data + bytes(-len(data) % 8)
            raw.extend(data)
            data = struct.pack("<I", where)
        return struct.pack("<HHI", code, number, count) + data.ljust(4, b"\0")

    head = jpeg.index(b"\xff\xda")
    head += 2 + int.from_bytes(jpeg[head + 2 : head + 4], "big")
    marks = [
        i + 2 for i in range(head, len(jpeg) - 1) if jpeg[i] == 255 and 0xD0 <= jpeg[i + 1] < 0xD8
    ]
    return [
        entry(256, "I", shape[1]), entry(257, "I", shape[0]), entry(258, "H", 8, 8, 8),
        entry(259, "H", 7), entry(262, "H", 6), entry(271, "s", b"Hamamatsu\0"),
        entry(273, "I", start), entry(277, "H", 3), entry(278, "I", shape[0]),
        entry(279, "I", len(jpeg)), entry(282, "II", per_cm, 1), entry(283, "II", per_cm, 1),
        entry(284, "H", 1), entry(296, "H", 3), entry(65420, "I", 1), entry(65421, "f", lens),
        entry(65422, "i", 0), entry(65423, "i", 0), entry(65424, "i", 0),
        entry(65426, "I", head, *marks),
    ]  # fmt: skip
