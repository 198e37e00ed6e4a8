"""Runs where spatialdata is, not where nucleiflow is: `read_spatialdata.py STORE FACTS.npz`.

What spatialdata makes of a store goes into the file as plain arrays, for a test to judge.
"""

import logging
import sys
import warnings


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def main(store, facts):
    import numpy as np
    import spatialdata as sd

    heard = Heard()
    logging.getLogger().addHandler(heard)
    logging.getLogger("spatialdata").addHandler(heard)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sdata = sd.read_zarr(store)
    theirs = DeprecationWarning, FutureWarning  # of the libraries among themselves
    told = [str(one.message) for one in said if not issubclass(one.category, theirs)]
    complaints = [*heard.lines, *told]
    found = {**dict(gather(sdata)), "complaints": np.array(complaints, dtype=str)}
    sdata.write(facts.removesuffix(".npz") + ".written.zarr")
    np.savez(facts, **found)


def gather(sdata):
    """Pairs of names and arrays."""
    import numpy as np
    import spatialdata as sd
    from spatialdata.transformations import get_transformation

    yield "elements", np.array(sorted(f"{kind}/{name}" for kind, name, _ in sdata.gen_elements()))
    yield "systems", np.array(sorted(sdata.coordinate_systems))
    yield "about", np.array(repr(sorted(sdata.attrs["nucleiflow"])))
    for name in ("image", "nuclei"):
        for level, one in enumerate(sdata[name].values()):
            yield f"{name}-{level}", one["image"].to_numpy()
    yield "channels", np.array(sd.models.get_channel_names(sdata["image"]), dtype=str)
    for name in [one for _, one, _ in sdata.gen_spatial_elements()]:
        for system, step in get_transformation(sdata[name], get_all=True).items():
            yield f"{name}-to-{system}", step.to_affine_matrix(("y", "x"), ("y", "x"))
    if "outlines" in sdata:
        yield from gather_nuclei(sdata)


def gather_nuclei(sdata):
    import numpy as np
    import spatialdata as sd

    outlines, table = sdata["outlines"], sdata["table"]
    yield "outlines", outlines.index.to_numpy()
    yield "kinds", np.array(sorted(set(outlines.geom_type)))
    yield "valid", outlines.is_valid.to_numpy()
    yield "crs", np.array(str(outlines.crs))
    for system in sdata.coordinate_systems:
        moved = sd.transform(outlines, to_coordinate_system=system)
        yield f"areas-{system}", moved.area.to_numpy()
        yield f"outline-centroids-{system}", moved.centroid.get_coordinates().to_numpy()
        centres = sd.get_centroids(sdata["nuclei"], coordinate_system=system).compute()
        yield f"centroids-{system}", centres.loc[table.obs["label"], ["x", "y"]].to_numpy()
    for name, points in table.obsm.items():
        yield f"obsm-{name}", np.asarray(points)
    yield "X", np.asarray(table.X)
    yield "features", np.array(table.var_names, dtype=str)
    yield "units", table.var["unit"].to_numpy(dtype=str)
    yield "rows", np.array(table.obs_names, dtype=str)
    for name in table.obs:
        column = table.obs[name]
        yield f"obs-{name}", column.to_numpy(dtype=str if name == "region" else None)
    yield "instances", sd.get_element_instances(sdata["nuclei"]).to_numpy()
    matched = sd.match_table_to_element(sdata, element_name="nuclei", table_name="table")
    yield "matched", matched.obs["label"].to_numpy()
    yield from gather_query(sdata)


def gather_query(sdata):
    """What lies in the left upper quarter, asked for in µm where there are any."""
    import numpy as np
    import spatialdata as sd

    system = "um" if "um" in sdata.coordinate_systems else "global"
    extent = sd.get_extent(sdata["image"], coordinate_system=system)
    most = [extent[axis][1] / 2 for axis in ("y", "x")]
    part = sd.bounding_box_query(
        sdata,
        axes=("y", "x"),
        min_coordinate=[0.0, 0.0],
        max_coordinate=most,
        target_coordinate_system=system,
    )
    yield "extent", np.array([extent[axis] for axis in ("y", "x")])
    yield "query-box", np.array(most)
    yield "query-labels", part["nuclei"]["scale0"]["image"].to_numpy()
    yield "query-outlines", part["outlines"].index.to_numpy()
    yield "query-table", part["table"].obs["label"].to_numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
