// What an author of a JavaScript program does with @kubernetes/client-node, in the tenant of KUBECONFIG.
// Says what it saw as one JSON object; test_javascript_client.py judges it.

import assert from 'node:assert';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const extensions = config.makeApiClient(k8s.ApiextensionsV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

const namespace = process.argv[2];
const seen = {};
const as = (strategy) => k8s.setHeaderOptions('Content-Type', strategy);

async function refused(request) {
    try {
        await request;
    } catch (error) {
        return { code: error.code, reason: JSON.parse(error.body).reason };
    }
    return null;
}

// Asks again until it is so; whoever started this program has the deadline.
async function until(true_) {
    for (;;) {
        const found = await true_();
        if (found) return found;
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

async function configmaps() {
    await core.createNamespace({ body: { metadata: { name: namespace } } });
    const informed = [];
    const informer = k8s.makeInformer(
        config, `/api/v1/namespaces/${namespace}/configmaps`,
        () => core.listNamespacedConfigMap({ namespace, labelSelector: 'js' }), 'js',
    );
    for (const verb of ['add', 'update', 'delete']) {
        informer.on(verb, (map) => informed.push(`${verb} ${map.metadata.name} ${map.data?.a ?? ''}`.trim()));
    }
    informer.on('error', (error) => informed.push(`error ${error}`));
    await informer.start();

    const labels = { js: 'yes' };
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'c', labels }, data: { a: '1' } } });
    await until(() => informed.includes('add c 1'));
    const name = 'c';
    const merged = await core.patchNamespacedConfigMap(
        { name, namespace, body: { data: { a: '2', b: '1' } } }, as(k8s.PatchStrategy.MergePatch),
    );
    const patched = await core.patchNamespacedConfigMap(
        { name, namespace, body: [{ op: 'remove', path: '/data/b' }] }, as(k8s.PatchStrategy.JsonPatch),
    );
    const strategic = await core.patchNamespacedConfigMap(
        { name, namespace, body: { data: { a: '3' } } }, as(k8s.PatchStrategy.StrategicMergePatch),
    );
    const applied = await core.patchNamespacedConfigMap(
        {
            name, namespace, fieldManager: 'js', force: true,
            body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { d: '4' } },
        },
        as(k8s.PatchStrategy.ServerSideApply),
    );
    seen.patches = [merged, patched, strategic, applied].map((map) => map.data);
    seen.managers = applied.metadata.managedFields.map((entry) => [entry.manager, entry.operation]);
    seen.stale = await refused(core.replaceNamespacedConfigMap({ name, namespace, body: merged }));
    const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'js=yes' });
    seen.listed = listed.items.map((map) => map.metadata.name);
    await core.deleteNamespacedConfigMap({ name, namespace });
    await until(() => informed.some((line) => line.startsWith('delete c')));
    seen.gone = await refused(core.readNamespacedConfigMap({ name, namespace }));
    seen.informed = [...informed];  // To stop is an error to it.
    await informer.stop();
}

async function deployment() {
    const labels = { app: 'web' };
    const body = {
        apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'web', namespace },
        spec: {
            replicas: 2, selector: { matchLabels: labels },
            template: {
                metadata: { labels },
                spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'c', image: 'nginx:1' }] },
            },
        },
    };
    await objects.create(body);
    const ready = await until(async () => {
        const found = await apps.readNamespacedDeployment({ name: 'web', namespace });
        return found.status.readyReplicas === 2 && found;
    });
    assert(ready.metadata.creationTimestamp instanceof Date);
    const pods = await core.listNamespacedPod({ namespace, limit: 1 });
    seen.page = [pods.items.length, pods.metadata.remainingItemCount, Boolean(pods.metadata._continue)];
    await objects.delete(body, undefined, undefined, undefined, undefined, 'Foreground');
    await until(async () => (await core.listNamespacedPod({ namespace })).items.length === 0);
}

async function customResource() {
    const group = 'js.example.com';
    const version = 'v1';
    const plural = 'notes';
    const schema = {
        openAPIV3Schema: {
            type: 'object',
            properties: {
                spec: { type: 'object', properties: { text: { type: 'string' }, pages: { type: 'integer', _default: 1 } } },
            },
        },
    };
    await extensions.createCustomResourceDefinition({
        body: {
            metadata: { name: `${plural}.${group}` },
            spec: {
                group, scope: 'Namespaced', names: { plural, kind: 'Note' },
                versions: [{ name: version, served: true, storage: true, schema }],
            },
        },
    });
    await until(async () => {
        const found = await extensions.readCustomResourceDefinition({ name: `${plural}.${group}` });
        return found.status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
    });
    const where = { group, version, namespace, plural };
    const before = await custom.listNamespacedCustomObject(where);
    const watched = [];
    const watch = new k8s.Watch(config);
    const stop = await watch.watch(
        `/apis/${group}/${version}/namespaces/${namespace}/${plural}`,
        { resourceVersion: before.metadata.resourceVersion, allowWatchBookmarks: true },
        (type, note) => type === 'BOOKMARK' || watched.push(`${type} ${note.spec.text} ${note.spec.pages}`),
        () => {},
    );
    const note = { apiVersion: `${group}/${version}`, kind: 'Note', metadata: { name: 'n' }, spec: { text: 'one' } };
    await custom.createNamespacedCustomObject({ ...where, body: note });
    await custom.patchNamespacedCustomObject(
        { ...where, name: 'n', body: { spec: { text: 'two' } } }, as(k8s.PatchStrategy.MergePatch),
    );
    // Found by discovery, as what `kubectl apply` is in JavaScript.
    await objects.patch(
        { ...note, metadata: { name: 'n', namespace }, spec: { text: 'three', pages: 3 } },
        undefined, undefined, 'js', true, k8s.PatchStrategy.ServerSideApply,
    );
    seen.invalid = await refused(
        custom.createNamespacedCustomObject({ ...where, body: { ...note, metadata: { name: 'bad' }, spec: { text: 1 } } }),
    );
    await custom.deleteNamespacedCustomObject({ ...where, name: 'n' });
    await until(() => watched.length === 4);
    stop.abort();
    seen.watched = watched;
    await extensions.deleteCustomResourceDefinition({ name: `${plural}.${group}` });
}

await configmaps();
await deployment();
await customResource();
seen.nodes = await refused(core.listNode());
const authorization = config.makeApiClient(k8s.AuthorizationV1Api);
const review = await authorization.createSelfSubjectAccessReview({
    body: { spec: { resourceAttributes: { verb: 'create', resource: 'pods', namespace } } },
});
seen.may = review.status.allowed;
await core.deleteNamespace({ name: namespace });
console.log(JSON.stringify(seen));
process.exit(0);
