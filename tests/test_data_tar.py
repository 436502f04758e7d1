"""Tar archives give the bytes and labels that were packed, in every process and thread, or say what is wrong."""

import io
import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from jeffnet.data import tar
from jeffnet.data.source import DataError
from jeffnet.data.tar import TarFiles


def pack(path, content, mode='w', **options):
    """Writes an archive of {name: bytes, or TarInfo with a type of its own}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                info.type, info.linkname = data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def picture(number):
    """Stands for an image: every one of another length, with zero bytes."""
    return b'%d\0' % number * (300 + number)


def shard(numbers, label='cls'):
    """WebDataset samples, the label of each its number."""
    content = {}
    for n in numbers:
        content[f'{n:04d}.jpg'] = picture(n)
        content[f'{n:04d}.{label}'] = b'%d' % n if label == 'cls' else b'{"label": %d}' % n
    return content


def read_all(files):
    return {files.name(i): (files.read(i), int(files.labels[i])) for i in range(len(files))}


def contents(files):
    """(bytes, class name) of every image."""
    return [(files.read(i), files.classes[label]) for i, label in enumerate(files.labels)]


@pytest.fixture
def shards(tmp_path):
    """Three shards whose natural order is not the alphabetical one."""
    for number in (2, 10, 1):
        pack(tmp_path / f'val-{number}.tar', shard(range(3 * number, 3 * number + 3)))
    return tmp_path


def test_shards_give_what_was_written_in_order(shards):
    files = TarFiles.open(shards)
    numbers = [3, 4, 5, 6, 7, 8, 30, 31, 32]
    assert len(files) == 9 and files.labels.dtype == np.int32
    assert files.labels.tolist() == numbers
    assert [files.read(i) for i in range(9)] == [picture(n) for n in numbers]
    assert files.classes == [str(n) for n in range(33)]
    assert files.name(0) == f'{shards}/val-1.tar::0003.jpg' and files.name(8) == f'{shards}/val-10.tar::0032.jpg'
    assert files.read(-1) == picture(32)
    with pytest.raises(IndexError):
        files.read(9)


@pytest.mark.parametrize('start', ['spawn', 'forkserver'])
def test_other_processes_read(shards, start):
    files = TarFiles.open(shards)
    expected = read_all(files)
    assert files.handles
    with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
        assert list(pool.map(files.read, range(9))) == [image for image, _ in expected.values()]


def test_pickle_is_small_and_has_no_handles(tmp_path):
    pack(tmp_path / 'a.tar', {f'n{i % 7}/image-{i:06d}.jpg': b'' for i in range(2000)})
    files = TarFiles.open(tmp_path / 'a.tar')
    files.read(0)
    copy = pickle.loads(pickle.dumps(files))
    assert not copy.handles and read_all(copy) == read_all(files)
    assert len(pickle.dumps(files)) < 2000 * 64


def test_threads_read(shards, monkeypatch):
    expected = [picture(n) for n in (3, 4, 5, 6, 7, 8, 30, 31, 32)]
    for limit in (256, 1):  # all archives kept open, or one
        monkeypatch.setattr(tar, 'MAX_OPEN', limit)
        files = TarFiles.open(shards)
        before = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else None
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(files.read, list(range(9)) * 100)) == expected * 100
        assert len(files.handles) == min(limit, 3)
        if before is not None:
            assert len(os.listdir('/proc/self/fd')) == before + len(files.handles)
            del files
            assert len(os.listdir('/proc/self/fd')) == before


@pytest.mark.parametrize('form', [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize('prefix', ['', './', 'set/', './deep/validation/', 'train/'])
def test_class_folders(tmp_path, form, prefix):
    long = 'é' * 90 + '/' + 'x' * 120 + '.v2.JPEG'
    content = {
        f'{prefix}n10': (tarfile.DIRTYPE, ''),
        f'{prefix}n10/a.seg.PNG': picture(1),
        f'{prefix}n10/._a.seg.PNG': b'macOS',
        f'{prefix}.hidden/a.png': b'hidden',
        f'__MACOSX/{prefix}n10/a.png': b'macOS',
        f'{prefix}n10/readme.txt': b'text',
        f'{prefix}n10/a.seg.json': b'{"boxes": []}',
        f'{prefix}n2/b.webp': picture(2),
        prefix + long: picture(3),
        f'{prefix}n2/dir.jpg': (tarfile.DIRTYPE, ''),
    }
    files = TarFiles.open(pack(tmp_path / 'a.tar', content, format=form))
    assert files.classes == ['n2', 'n10', 'é' * 90]
    assert contents(files) == [(picture(1), 'n10'), (picture(2), 'n2'), (picture(3), 'é' * 90)]
    assert files.name(2).endswith('.tar::' + (prefix + long).removeprefix('./'))


def test_links_lead_to_their_file(tmp_path):
    content = {
        'n1/a.jpg': picture(1),
        'n1/hard.jpg': (tarfile.LNKTYPE, 'n1/a.jpg'),
        'n2/soft.jpg': (tarfile.SYMTYPE, '../n1/again.jpg'),
        'n1/again.jpg': (tarfile.SYMTYPE, '../.blobs/0f3a'),
        '.blobs/0f3a': picture(2),
        'n1/notes': (tarfile.SYMTYPE, '/nowhere'),
    }
    files = TarFiles.open(pack(tmp_path / 'a.tar', content))
    assert contents(files) == [(picture(1), 'n1'), (picture(1), 'n1'), (picture(2), 'n2'), (picture(2), 'n1')]


def test_kinds_of_labels(tmp_path):
    content = {
        'x/b.cls': b' 2\n',
        'x/b.json': b'{"label": 0}',
        'x/b.seg.png': b'a mask',
        'x/b.PNG': picture(1),
        'x/c.JPEG': picture(2),
        'x/c.json': b'{"label": 0, "class": "ignored"}',
        'x/d.json': b'no JSON, and of no matter beside a .cls',
        'x/d.cls': b'\xef\xbb\xbf1',
        'x/d.jpg': picture(3),
        'info.json': b'[]',
    }
    files = TarFiles.open(pack(tmp_path / 'numbers.tar', content))
    assert contents(files) == [(picture(1), '2'), (picture(2), '0'), (picture(3), '1')]
    content = {
        'a.jpg': picture(1),
        'a.cls': b'dog 10\n',
        'b.jpg': picture(2),
        'b.json': b'{"class": "Dog 9"}',
        'c.jpg': picture(3),
        'c.json': b'{"label": "ox"}',
    }
    files = TarFiles.open(pack(tmp_path / 'names.tar', content))
    assert files.classes == ['Dog 9', 'dog 10', 'ox']
    assert contents(files) == [(picture(1), 'dog 10'), (picture(2), 'Dog 9'), (picture(3), 'ox')]


def test_class_names(tmp_path):
    path = pack(tmp_path / 'set' / 'a.tar', shard([0, 2]))
    (tmp_path / 'classes.txt').write_text('far\naway\n')
    assert TarFiles.open(path).classes == ['0', '1', '2']
    (tmp_path / 'set' / 'classnames.txt').write_text('crane\nfox\ncrane\n\n')  # ImageNet too has two classes 'crane'
    assert TarFiles.open(path).classes == ['crane', 'fox', 'crane']
    pack(path, {**shard([0, 2]), 'meta/classes.txt': b'cat\r\ndog\r\nowl\r\n'})
    assert TarFiles.open(path).classes == ['cat', 'dog', 'owl']
    assert TarFiles.open(path, classes=('i', 'j', 'k')).classes == ['i', 'j', 'k']
    pack(tmp_path / 'splits/val/0.tar', shard([1]))
    pack(tmp_path / 'splits/train/0.tar', shard([0]))
    for folder, names in (('', ['a', 'b']), ('train', ['no', 'never']), ('val', ['c', 'd'])):
        (tmp_path / 'splits' / folder / 'classes.txt').write_text('\n'.join(names))
        assert TarFiles.open(tmp_path / 'splits').classes == (['c', 'd'] if folder == 'val' else ['a', 'b'])
    path = pack(tmp_path / 'b.tar', {'owl/x.jpg': picture(1), 'cat/x.jpg': picture(2)})
    files = TarFiles.open(path, classes=['cat', 'dog', 'owl'])
    assert files.labels.tolist() == [2, 0] and files.classes == ['cat', 'dog', 'owl']


def test_split_by_name_of_archive_or_folder(tmp_path):
    for name, number in (('imagenet-validation-0.tar', 1), ('Imagenet_train_0.tar', 2), ('evaluate.tar', 3)):
        pack(tmp_path / 'names' / name, shard([number]))
    pack(tmp_path / 'folders/val/0.tar', shard([1]))
    pack(tmp_path / 'folders/train/0.tar', shard([2]))
    for root in (tmp_path / 'names', tmp_path / 'folders'):
        for split, label in ((None, 1), ('val', 1), ('validation', 1), ('train', 2)):
            assert TarFiles.open(root, split).labels.tolist() == [label]
        with pytest.raises(FileNotFoundError, match=r"has no split 'test'; there: train, val(idation)?; give"):
            TarFiles.open(root, 'test')
    assert TarFiles.open(tmp_path / 'folders/val', 'validation').labels.tolist() == [1]
    assert TarFiles.open(tmp_path / 'folders/train').labels.tolist() == [2]
    with pytest.raises(FileNotFoundError, match="has no split 'validation'; there: train"):
        TarFiles.open(tmp_path / 'folders/train', 'validation')
    with pytest.raises(FileNotFoundError, match=r'no name of an archive or folder tells .* leave the split out'):
        TarFiles.open(tmp_path / 'names/evaluate.tar', 'validation')


def test_split_by_folder_inside(tmp_path):
    inside = {'in/train/n1/x.jpg': picture(1), 'in/val/n2/deep/x.jpg': picture(2), 'in/val/train/x.jpg': picture(3)}
    path = pack(tmp_path / 'a.tar', inside)
    for split in (None, 'validation', 'val'):
        assert contents(TarFiles.open(path, split)) == [(picture(2), 'n2'), (picture(3), 'train')]
    assert TarFiles.open(path, 'train').classes == ['n1']
    samples = {f'{split}/{name}': data for split in ('train', 'val') for name, data in shard([split == 'val']).items()}
    path = pack(tmp_path / 'b.tar', samples)
    assert [TarFiles.open(path, split).labels.tolist() for split in ('train', None)] == [[0], [1]]
    with pytest.raises(FileNotFoundError, match="has no split 'test'; there: train, val"):
        TarFiles.open(path, 'test')


def test_patterns(shards):
    for pattern in ('val-{1,2,10}.tar', 'val-*.tar', 'v{al,al}-*'):
        assert TarFiles.open(shards / pattern).labels.tolist() == [3, 4, 5, 6, 7, 8, 30, 31, 32]
    for number in (8, 9, 10):
        pack(shards / f'x/val-{number:03d}.tar', shard([number]))
    assert TarFiles.open(f'{shards}/x/val-{{008..010}}.tar').labels.tolist() == [8, 9, 10]
    assert TarFiles.open(f'{shards}/**/val-{{010..009}}.tar').labels.tolist() == [9, 10]
    odd = pack(shards / 'a[1]{b}.tar', shard([5]))
    assert TarFiles.open(odd).labels.tolist() == [5]


@pytest.mark.parametrize(
    'pattern', ['val-{01,2}.tar', 'val-{1..3}.tar', 'val-{1..2..}.tar', 'nothing-*.tar', 'dir*', 'no.tar']
)
def test_pattern_that_lacks_an_archive(shards, pattern):
    (shards / 'directory').mkdir()  # is no archive
    with pytest.raises(FileNotFoundError, match=r'(is missing|no such archive); give a \.tar file') as error:
        TarFiles.open(shards / pattern)
    assert str(shards / pattern) in str(error.value)


def test_folder_without_archives(tmp_path):
    (tmp_path / '.hidden.tar').touch()
    with pytest.raises(FileNotFoundError, match=r'holds no \.tar file'):
        TarFiles.open(tmp_path)
    with pytest.raises(DataError, match='not on this machine; download'):
        TarFiles.open('https://host/{00..10}.tar')


ONE = {'a.jpg': picture(1)}
FAULTS = {
    'empty': ({}, r'a\.tar: holds no image \(\.jpg, .*\); add images'),
    'no image': ({'n1.tar': b'x'}, r'a\.tar: holds no image'),
    'no label': (ONE, r'a\.tar::a\.jpg: lies in no class folder and has no label; .* add a\.cls'),
    'no label in json': ({**ONE, 'a.json': b'{"id": 3}'}, r"a\.tar::a\.json: has no label; give 'label' a "),
    'a label of a wrong type': ({**ONE, 'a.json': b'{"label": 1.5}'}, r'a\.tar::a\.json: has no label'),
    'true is no number': ({**ONE, 'a.json': b'{"label": true}'}, r'a\.tar::a\.json: has no label'),
    'a list': ({**ONE, 'a.json': b'[1]'}, r'a\.tar::a\.json: has no label'),
    'no json': ({**ONE, 'a.json': b'label: 3'}, r'a\.tar::a\.json: is no JSON \(.*\); write it anew'),
    'no json in a shard': ({**ONE, **shard([1]), 'a.json': b''}, r'a\.tar::a\.json: is no JSON'),
    'a sample without label': ({**ONE, 'b.jpg': b'', 'b.cls': b'1'}, r'a\.tar::a\.jpg: has no label; add a\.cls'),
    'a sample without image': ({**shard([1]), 'x/2.cls': b'2'}, r'a\.tar::x/2: has a label but no image'),
    'only a mask': ({'2.seg.png': b'', '2.cls': b'2'}, r'a\.tar::2: has a label but no image'),
    'two images': ({**shard([1]), '0001.png': b''}, r'a\.tar::0001\.png: its sample has another image, 0001\.jpg'),
    'empty label': ({**ONE, 'a.cls': b' \n'}, r"a\.tar::a\.cls: holds b' \\n', which is no label; write"),
    'binary label': ({**ONE, 'a.cls': b'\x80\x04K'}, r'a\.tar::a\.cls: holds .* which is no label'),
    'two lines': ({**ONE, 'a.cls': b'1\n2'}, r'a\.tar::a\.cls: holds .* which is no label'),
    'no number': ({**shard([1]), **ONE, 'a.cls': b'cat'}, r"a\.tar::a\.jpg: label 'cat' is no number, as others are"),
    'negative': ({**ONE, 'a.cls': b'-1'}, r'a\.tar::a\.jpg: label -1 is negative; correct it'),
    'huge': ({**ONE, 'a.cls': b'99999999999'}, r'a\.tar::a\.jpg: label 99999999999 is not below 1000000'),
    'beyond classes.txt': ({**shard([2]), 'classes.txt': b'x\ny'}, r'label 2 is not below 2, .*a\.tar::classes\.txt'),
    'classes.txt': ({'n1/a.jpg': b'', 'classes.txt': b'n2'}, r"n1/a\.jpg: 'n1' is not among .*a\.tar::classes\.txt"),
    'classes.txt twice': ({'n/a.jpg': b'', 'classes.txt': b'n\nn'}, r"n/a\.jpg: class 'n' is twice in .*classes\.txt"),
    'classes.txt gap': ({**shard([0]), 'classes.txt': b'a\n\nb'}, r'a\.tar::classes\.txt: has an empty line'),
    'classes.txt binary': ({**shard([0]), 'classes.txt': b'\xff'}, r'a\.tar::classes\.txt: is no UTF-8 text'),
    'flat split': ({'validation/a.jpg': b''}, r'a\.tar::validation/a\.jpg: lies in a folder of a split, not of'),
    'images/ in classes': ({'n1/i/a.jpg': b'', 'n2/i/b.jpg': b''}, r'a\.tar: n1/i/ and n2/i/ both hold images'),
    'nested': ({'n1/i/a.jpg': b'', 'n1/b.jpg': b''}, r'a\.tar: n1/ and n1/i/ both hold images'),
    'dangling link': ({'n/a.jpg': (tarfile.SYMTYPE, '../b')}, r'a\.tar::n/a\.jpg: is a link to \.\./b, which is not'),
    'circle': ({'n/a.jpg': (tarfile.SYMTYPE, 'b.jpg'), 'n/b.jpg': (tarfile.SYMTYPE, 'a.jpg')}, 'is a link to b'),
    'sparse': ({'n1/a.jpg': (tarfile.GNUTYPE_SPARSE, '')}, r'a\.tar::n1/a\.jpg: is stored as a sparse file'),
}  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS)
def test_faulty_content_is_named(tmp_path, fault):
    content, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        TarFiles.open(pack(tmp_path / 'a.tar', content, format=tarfile.GNU_FORMAT))
    assert str(error.value).startswith(f'{tmp_path}/a.tar') and '\n' not in str(error.value)


def test_member_that_is_there_twice(tmp_path):
    path = pack(tmp_path / 'a.tar', {'n1/a.jpg': picture(1)})
    pack(path, {'n1/a.jpg': picture(2)}, mode='a')
    with pytest.raises(DataError, match=r'a\.tar::n1/a\.jpg: is there twice; unpack'):
        TarFiles.open(path)


def test_classes_asked_for(tmp_path):
    path = pack(tmp_path / 'a.tar', {'n1/a.jpg': b'', 'n2/a.jpg': b'', 'n3/a.jpg': b''})
    with pytest.raises(DataError, match=r"'n1' is not among the classes asked for, .* 2 of 3 classes"):
        TarFiles.open(path, classes=['n2'])
    with pytest.raises(DataError, match='label 7 is not below 7, the number of classes in the classes asked for'):
        TarFiles.open(pack(path, shard([0, 7])), classes=list('abcdefg'))
    assert TarFiles.open(path, classes=list('abcdefgh')).labels.tolist() == [0, 7]


@pytest.mark.parametrize('kind', ['gz', 'bz2', 'xz'])
@pytest.mark.parametrize('name', ['a.tar.{}', 'a.tar'])
def test_compressed(tmp_path, kind, name):
    pack(tmp_path / name.format(kind), shard([1]), mode=f'w:{kind}')
    with pytest.raises(DataError, match=r'a\.tar.*: is compressed \(\w+\), .* decompress it first'):
        TarFiles.open(tmp_path)


def test_damaged_archive_is_never_read_in_part(shards):
    path = shards / 'val-10.tar'
    whole = path.read_bytes()
    end = len(whole.rstrip(b'\0')) // 512 * 512 + 512
    header = end - 1024  # of the last member
    damaged = {
        'is no whole tar archive': [b'', whole[:100], whole[:1000], b'not an archive' * 99],
        'is cut off': [whole[:end], whole[: end + 100], whole[: end - 700]],
        'is damaged after byte': [
            whole[:end] + b'\1' * 512,
            whole + whole,
            whole[:header] + b'\1' + whole[header + 1 :],
        ],
    }
    for cause, versions in damaged.items():
        for version in versions:
            path.write_bytes(version)
            with pytest.raises(DataError, match=rf'val-10\.tar: {cause}.*; copy it again'):
                TarFiles.open(shards)


def test_archive_that_changes_after_indexing(shards):
    files, fresh = TarFiles.open(shards), TarFiles.open(shards)
    assert files.read(0) == picture(3)
    with open(shards / 'val-1.tar', 'r+b') as file:
        file.truncate(700)
    with pytest.raises(DataError, match=r'val-1\.tar::0003\.jpg: only 188 of 606 bytes could be read'):
        files.read(0)
    with pytest.raises(DataError, match=r'val-1\.tar: has changed since its members were listed; start again'):
        fresh.read(0)
    (shards / 'val-2.tar').unlink()
    with pytest.raises(FileNotFoundError, match=r'val-2\.tar'):
        fresh.read(3)
