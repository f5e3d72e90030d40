from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgen.errors import FormatError, InputError
from physgen.io.shipped import shipped
from physgen.systems.geometry import Geometry, Layer, read_geometry, write_geometry

edges = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=6, unique=True).map(
    lambda rest: (0.0, *sorted(rest))
)
layers = st.lists(
    st.tuples(st.integers(0, 40), edges, st.integers(1, 16)),
    min_size=1,
    max_size=5,
    unique_by=lambda layer: layer[0],
).map(lambda items: tuple(Layer(*item) for item in items))


@given(layers, st.none() | st.just((0.2, 0.25)), st.sets(st.integers(41, 60), max_size=4))
@settings(max_examples=25)
def test_a_written_geometry_reads_back_exactly(tmp_path_factory, layers, eta, unused):
    path = tmp_path_factory.mktemp("xml") / "binning.xml"
    geometry = Geometry(layers, pid=211, name="pion", eta=eta, unused=tuple(sorted(unused)))
    write_geometry(path, geometry)
    assert read_geometry(path) == geometry


@pytest.mark.parametrize(("name", "n_voxels"), [("calo-368.xml", 368), ("calo-6480.xml", 6480)])
def test_shipped_geometries(name, n_voxels):
    geometry = read_geometry(shipped("datasets", name))
    assert geometry.n_voxels == n_voxels == len(geometry.ring) == len(geometry.alpha)


def test_the_radius_runs_fastest_then_the_angle_then_the_layer():
    geometry = Geometry((Layer(0, (0.0, 2.0, 6.0), 4), Layer(3, (0.0, 10.0), 1)))
    assert geometry.radius.tolist() == [1, 4] * 4 + [5]
    assert np.allclose(geometry.alpha[:8:2], np.array([-3, -1, 1, 3]) * np.pi / 4)
    assert geometry.layer.tolist() == [0] * 8 + [1]
    assert geometry.ring.tolist() == [0, 1] * 4 + [2]
    assert geometry.offsets.tolist() == [0, 8, 9]
    eta, phi, r = map(geometry.coordinate, ("eta", "phi", "r"))
    assert np.allclose(eta**2 + phi**2, r**2)


def test_unused_layers_are_left_out_and_ids_may_have_gaps(tmp_path):
    path = tmp_path / "b.xml"
    path.write_text(
        '<Bins><Bin pid="22" name="photon"><Layer id="0" r_edges="0, 5" n_bin_alpha="1"/>'
        '<Layer id="4" r_edges="0" n_bin_alpha="1"/>'
        '<Layer id="12" r_edges="0,1" n_bin_alpha="2"/></Bin></Bins>'
    )
    assert [layer.id for layer in read_geometry(path).layers] == [0, 12]


def test_unused_layers_are_written_where_their_ids_belong(tmp_path):
    # The reference program counts layers by their place in the file.
    path = tmp_path / "b.xml"
    used = (Layer(0, (0.0, 5.0), 1), Layer(3, (0.0, 5.0), 2), Layer(12, (0.0, 1.0), 2))
    write_geometry(path, Geometry(used, unused=(1, 2, 4, 13)))
    ids = [int(node.get("id")) for node in ElementTree.parse(path).iter("Layer")]
    assert ids == [0, 1, 2, 3, 4, 12, 13]
    assert read_geometry(path).layers == used


def test_a_file_with_several_particles_asks_which(tmp_path):
    path = tmp_path / "b.xml"
    layer = '<Layer id="0" r_edges="0,5" n_bin_alpha="1"/>'
    path.write_text(
        f'<Bins><Bin pid="22" name="photon">{layer}</Bin><Bin pid="11" name="electron">{layer}'
        "</Bin></Bins>"
    )
    assert read_geometry(path, "electron").pid == read_geometry(path, "11").pid == 11
    with pytest.raises(InputError, match=r"photon \(22\), electron \(11\)"):
        read_geometry(path)
    with pytest.raises(InputError, match=r"'pion'.*--set system\.particle=photon"):
        read_geometry(path, "pion")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<Bins><Bin", "not well-formed"),
        ("<Cells/>", "expected <Bins>"),
        ("<Bins/>", "holds no <Bin>"),
        ('<Bins><Bin pid="22" name="p"/></Bins>', "no layer with voxels"),
        (
            '<Bins><Bin pid="23" name="Z"><Layer id="0" r_edges="0,5" n_bin_alpha="1"/></Bin>'
            "</Bins>",
            "attribute pid is 23, the code of no particle",
        ),
        (
            '<!DOCTYPE Bins [<!ENTITY a SYSTEM "file:///etc/passwd">]><Bins>&a;</Bins>',
            "document type",
        ),
    ],
)
def test_faulty_files_are_refused(tmp_path, content, message):
    path = tmp_path / "b.xml"
    path.write_text(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_geometry(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('id="3" r_edges="0,5,5" n_bin_alpha="1"', "layer 3 attribute r_edges: edges must ascend"),
        ('id="3" r_edges="1,5" n_bin_alpha="1"', "must ascend from 0"),
        ('id="3" r_edges="0,x" n_bin_alpha="1"', "'x' is not a finite number"),
        ('id="3" r_edges="0,inf" n_bin_alpha="1"', "not a finite number"),
        ('id="3" r_edges="0,5" n_bin_alpha="0"', "layer 3 attribute n_bin_alpha: 0 is less"),
        ('id="3" r_edges="0,5"', "attribute n_bin_alpha is missing"),
        ('id="a" r_edges="0,5" n_bin_alpha="1"', "attribute id: 'a' is not an integer"),
        ('r_edges="0,5" n_bin_alpha="1"', "attribute id is missing"),
    ],
)
def test_faulty_layers_are_named(tmp_path, attributes, message):
    path = tmp_path / "b.xml"
    path.write_text(f'<Bins><Bin pid="22" name="photon"><Layer {attributes}/></Bin></Bins>')
    with pytest.raises(FormatError, match=message):
        read_geometry(path)


def test_a_layer_may_appear_once_only(tmp_path):
    path = tmp_path / "b.xml"
    layer = '<Layer id="7" r_edges="0,5" n_bin_alpha="1"/>'
    path.write_text(f'<Bins><Bin pid="22" name="photon">{layer}{layer}</Bin></Bins>')
    with pytest.raises(FormatError, match="layer 7 appears twice"):
        read_geometry(path)


def test_missing_files_are_user_errors():
    with pytest.raises(InputError, match="no binning file"):
        read_geometry(Path("nowhere.xml"))
    with pytest.raises(InputError, match=r"did you mean 'calo-368.xml'"):
        shipped("datasets", "calo-386.xml")
