#!/bin/sh
# A server in a container, without a registry and with a storage of its own, in FOLDER:
#
#   container.sh probe FOLDER              does a container run here at all?
#   container.sh build FOLDER PYTHON       an image of what a server has loaded after its first answer
#   container.sh run FOLDER POD            execute the pod of POD.yaml, and show what it prints
#   container.sh remove FOLDER POD
set -e
folder=$2 image=localhost/kit-serving
mkdir -p "$folder"
cd "$folder"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$folder" "$folder" >storage.conf
printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n' >containers.conf # raise no limits
if command -v runc >/dev/null; then printf '[engine]\nruntime = "runc"\n' >>containers.conf; fi
export CONTAINERS_STORAGE_CONF="$folder/storage.conf" CONTAINERS_CONF="$folder/containers.conf"

build() { # of the files in `paths`, at the same paths as here
    tar --create --file root.tar --dereference --hard-dereference --exclude=__pycache__ --exclude='*/tests' \
        --exclude='*/test' --files-from paths --absolute-names --ignore-failed-read 2>/dev/null
    printf 'FROM scratch\nADD root.tar /\nENV PYTHONPATH=%s\n' "$1" >Containerfile
    buildah build --isolation chroot --iidfile digest -t $image .
}

case $1 in
probe)
    program=$(readlink -f /bin/true)
    ls -d "$program" /lib*/ld-* /lib*/*/libc.so.6 >paths 2>/dev/null || true
    build ""
    podman run --rm --network host $image "$program"
    podman pod create --network host "kit-probe-$$" # takes catatonit, which `podman run` does without
    podman pod rm -f "kit-probe-$$"
    ;;
build)
    "$3" - <<'LOADED'
import json, os, pathlib, sys, uvicorn.main, uvicorn.protocols.http.auto, uvicorn.loops.auto, uvicorn.lifespan.on
from kit.techniques.serving.servers import plain

body = plain.model.bodies(1)[0]
plain.predict_batch(plain.model.decode(body)[None])
standard = pathlib.Path(os.__file__).parent
found = {one for one in standard.iterdir() if one.name not in ("site-packages", "test", "ensurepip", "idlelib")}
found |= {pathlib.Path(sys.executable).resolve(), *pathlib.Path("/").glob("lib*/ld-*")}
for line in open("/proc/self/maps"):
    path = pathlib.Path(line.split(None, 5)[-1].strip())
    if ".so" in path.name:  # with the links that it is known by
        found |= set(path.parent.glob(path.name.partition(".so")[0] + ".so*"))
folders = set()
for name, module in list(sys.modules.items()):
    if path := getattr(module, "__file__", None):
        depth = name.count(".") + (os.path.basename(path) == "__init__.py")
        folder = pathlib.Path(path).parents[depth - 1]
        package = depth and folder.name == name.partition(".")[0]
        found.add(folder if package else pathlib.Path(path))
        folders |= {folder.parent} if package and folder.parent != standard else set()
found |= {noted for folder in folders for noted in folder.glob("*.dist-info")}
found |= {folder / "magika" for folder in folders if (folder / "magika").is_dir()}
model = pathlib.Path(os.environ["KIT_MODEL"])
found |= set(model.parent.glob(model.stem + ".*")) if model.suffix == ".onnx" else set()
pathlib.Path("paths").write_text("".join(f"{path}\n" for path in sorted(found)))
pathlib.Path("python_path").write_text(":".join(map(str, sorted(folders))))
LOADED
    build "$(cat python_path)"
    rm root.tar
    ;;
run) # the pod is no child of this process: it is removed when this process ends, however that is
    me=$$
    setsid sh -c "while kill -0 $me; do sleep 0.2; done; podman pod rm -f -i -t 0 $3" </dev/null >/dev/null 2>&1 &
    podman play kube "$3.yaml"
    exec podman logs -f "$3-server"
    ;;
remove) podman pod rm -f -i -t 0 "$3" ;;
esac
